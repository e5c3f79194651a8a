// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/embedcri/embedcri/internal/ctxlock"
)

func TestJoins(t *testing.T) {
	var j joins[int]
	var runs atomic.Int32
	entered, release := make(chan struct{}), make(chan struct{})
	op := func(ctx context.Context, at *progress) (int, error) {
		runs.Add(1)
		at.enter("CNI ADD")
		close(entered)
		<-release
		return 42, ctx.Err()
	}
	same, other := digest{1}, digest{2}
	ctx := context.Background()

	// The first caller gives up; the operation goes on, and it says what it waits for.
	hurried, cancel := context.WithCancel(ctx)
	gaveUp := make(chan error, 1)
	go func() {
		_, err := j.do(hurried, ctx, "pod a", same, op)
		gaveUp <- err
	}()
	<-entered
	cancel()
	if err := <-gaveUp; !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "CNI ADD") {
		t.Errorf("the one who gave up: %v", err)
	}
	if _, err := j.do(ctx, ctx, "pod a", other, op); !errdefs.IsAlreadyExists(err) {
		t.Errorf("another configuration: %v", err)
	}
	var wg, waiting sync.WaitGroup
	for range 8 {
		waiting.Add(1)
		wg.Go(func() {
			if v, err := j.do(&waiter{ctx, waiting.Done}, ctx, "pod a", same, op); v != 42 || err != nil {
				t.Errorf("joined: %d, %v", v, err)
			}
		})
	}
	waiting.Wait()
	close(release)
	wg.Wait()
	if n := runs.Load(); n != 1 {
		t.Errorf("ran %d times", n)
	}
}

// waiter is a context that tells when somebody begins to wait for it, which is after the operation has been joined.
type waiter struct {
	context.Context
	begun func()
}

func (w *waiter) Done() <-chan struct{} {
	w.begun()
	return w.Context.Done()
}

// TestStopWaitsForTheMaking: once Stop or Remove has returned, nobody may join the making that it has stopped.
func TestStopWaitsForTheMaking(t *testing.T) {
	for name, call := range map[string]func(*Pod, context.Context) error{"stop": (*Pod).Stop, "remove": (*Pod).Remove} {
		made := make(chan struct{})
		var cause error
		p := &Pod{op: ctxlock.New(), made: made, endMaking: func(err error) { cause = err }}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		err := call(p, ctx)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(cause, errStopped) {
			t.Errorf("%s beside a making: %v; the making was told %v", name, err, cause)
		}
		close(made)
		if err := p.stopMaking(t.Context()); err != nil {
			t.Errorf("%s after it: %v", name, err)
		}
	}
}

// TestOverIsAfterTheLastJoin: when an operation says that it is over, the next call begins one of its own.
func TestOverIsAfterTheLastJoin(t *testing.T) {
	var j joins[int]
	for want := range 200 {
		var over <-chan struct{}
		got, err := j.do(t.Context(), t.Context(), "pod", digest{}, func(_ context.Context, at *progress) (int, error) {
			over = at.over
			return want, nil
		})
		if err != nil || got != want {
			t.Fatalf("operation %d gave %d, %v", want, got, err)
		}
		<-over
	}
}
