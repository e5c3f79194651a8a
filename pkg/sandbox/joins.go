// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"k8s.io/klog/v2"
)

// digest identifies a request, so that a repeated one is told from another under the same name.
type digest [sha256.Size]byte

func digestOf(m proto.Message, extra string) (digest, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return digest{}, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return sha256.Sum256(append(b, extra...)), nil
}

// joins runs at most one operation for a key. Who asks for the same again while it runs waits for its result.
type joins[T any] struct {
	mu  sync.Mutex
	ops map[string]*joined[T]
}

type joined[T any] struct {
	digest  digest
	stage   *progress
	done    chan struct{}
	callers int // who wait; guarded by joins.mu
	value   T
	err     error
}

// do runs f, or joins the f that runs under the same key and digest. f gets the context base; ctx bounds only the waiting. A caller
// who gives up is told what the operation is waiting for; one with a deadline is told a little earlier, or its client would have
// left before the answer.
func (j *joins[T]) do(ctx, base context.Context, key string, d digest, f func(context.Context, *progress) (T, error)) (T, error) {
	j.mu.Lock()
	if j.ops == nil {
		j.ops = map[string]*joined[T]{}
	}
	op, running := j.ops[key]
	if running && op.digest != d {
		j.mu.Unlock()
		var zero T
		return zero, fmt.Errorf("%s is being created with another configuration: %w", key, errdefs.ErrAlreadyExists)
	}
	if !running {
		op = &joined[T]{digest: d, stage: newProgress(), done: make(chan struct{})}
		op.stage.over = op.done
		j.ops[key] = op
		go func() {
			op.err = caught(func() (err error) {
				op.value, err = f(base, op.stage)
				return err
			})
			j.mu.Lock()
			delete(j.ops, key) // what comes of it is on record by now
			abandoned := op.callers == 0
			j.mu.Unlock()
			if abandoned && op.err != nil && !errors.Is(op.err, errStopped) {
				klog.Background().Error(op.err, "operation that nobody waits for has failed", "stage", op.stage.String())
			}
			close(op.done)
		}()
	}
	op.callers++
	j.mu.Unlock()
	ctx, cancel := beforeDeadline(ctx)
	defer cancel()
	select {
	case <-op.done:
		return op.value, op.err
	case <-ctx.Done():
		j.mu.Lock()
		op.callers--
		j.mu.Unlock()
		var zero T
		return zero, fmt.Errorf("%s: still at it (%s), repeat the call to join: %w", key, op.stage, context.Cause(ctx))
	}
}

// beforeDeadline returns a context that ends some time before ctx: a tenth of what is left, which is time for an answer, and at most
// a second.
func beforeDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	d, ok := ctx.Deadline()
	if !ok {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, d.Add(-min(time.Second, time.Until(d)/10)))
}

// awaited tells whether somebody waits for an operation under the key.
func (j *joins[T]) awaited(key string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	op, running := j.ops[key]
	return running && op.callers > 0
}

// caught calls f and makes a panic an ErrInternal, with its stack in the log: a slip in one call, in whatever goroutine of it, is
// not to take the node's other containers along.
func caught(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			klog.Background().Error(nil, "Panic in an operation", "panic", r, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v: %w", r, errdefs.ErrInternal)
		}
	}()
	return f()
}

// progress is the stage that an operation is in, for those who wait and for the breakdown of what took how long.
type progress struct {
	now  atomic.Pointer[stage]
	log  []Stage         // of finished stages; the operation's own goroutine writes, and hands it over when it is done
	over <-chan struct{} // closed when the operation is over and nobody can join it any more
}

type stage struct {
	name  string
	since time.Time
}

func newProgress() *progress {
	p := &progress{}
	p.now.Store(&stage{name: "starting", since: time.Now()})
	return p
}

// enter says what is done from now on.
func (p *progress) enter(name string) {
	now := time.Now()
	old := p.now.Swap(&stage{name: name, since: now})
	p.log = append(p.log, Stage{Name: old.name, Took: now.Sub(old.since)})
}

func (p *progress) String() string {
	s := p.now.Load()
	return fmt.Sprintf("%s for %v", s.name, time.Since(s.since).Round(time.Millisecond))
}
