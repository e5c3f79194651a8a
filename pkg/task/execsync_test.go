// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/embedcri/embedcri/pkg/task/internal/runc"
)

// hangingRuntime does not answer until it is let go, as runc does in a container that has no CPU time left.
type hangingRuntime struct {
	Runtime
	free chan struct{}
}

func (r hangingRuntime) Exec(context.Context, string, string, runc.Exec) (int, error) {
	<-r.free
	return 0, errors.New("killed")
}

// TestExecSyncOfHangingRuntime: the caller gets its answer in time, the slot stays taken until the runtime is done.
func TestExecSyncOfHangingRuntime(t *testing.T) {
	gone := errors.New("client is gone")
	for name, c := range map[string]struct {
		timeout time.Duration
		cause   error
		want    error
	}{
		"time-out":       {20 * time.Millisecond, nil, context.DeadlineExceeded},
		"client is gone": {0, gone, gone},
	} {
		t.Run(name, func(t *testing.T) {
			rt := hangingRuntime{free: make(chan struct{})}
			m := &Manager{o: Options{Reaper: &Reaper{launches: map[uint64]struct{}{}}}, closing: make(chan struct{})}
			task := &Task{id: "t", m: m, runtime: rt}
			task.status.Store(&Status{State: Running})
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			released := make(chan struct{})
			_, err := task.ExecSync(ctx, ExecSync{Process: &specs.Process{}, Timeout: c.timeout,
				Launch: func(context.Context) (func(), error) {
					if c.cause != nil {
						cancel(c.cause)
					}
					return func() { close(released) }, nil
				}})
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			select {
			case <-released:
				t.Error("the slot is free while the runtime still hangs")
			default:
			}
			close(rt.free)
			select {
			case <-released:
			case <-time.After(10 * time.Second):
				t.Error("the slot is not freed")
			}
		})
	}
}

// TestExecSyncWaitsForItsTurn: waiting for the launch ends with the call, and not with the command's time-out.
func TestExecSyncWaitsForItsTurn(t *testing.T) {
	task := &Task{id: "t", m: &Manager{}}
	task.status.Store(&Status{State: Running})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	started := time.Now()
	_, err := task.ExecSync(ctx, ExecSync{Process: &specs.Process{}, Timeout: time.Millisecond, Launch: func(ctx context.Context) (func(), error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	if took := time.Since(started); !errors.Is(err, context.DeadlineExceeded) || took < 50*time.Millisecond {
		t.Errorf("%v after %v", err, took)
	}
}
