// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
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
