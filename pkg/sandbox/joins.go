// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
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
	digest digest
	stage  *progress
	done   chan struct{}
	value  T
	err    error
}

// do runs f, or joins the f that runs under the same key and digest. f gets the context base; ctx bounds only the waiting. A caller
// who gives up is told what the operation was waiting for.
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
		j.ops[key] = op
		go func() {
			op.value, op.err = f(base, op.stage)
			j.mu.Lock()
			delete(j.ops, key) // what comes of it is on record by now
			j.mu.Unlock()
			close(op.done)
		}()
	}
	j.mu.Unlock()
	select {
	case <-op.done:
		return op.value, op.err
	case <-ctx.Done():
		var zero T
		return zero, fmt.Errorf("%s: still at it (%s), repeat the call to join: %w", key, op.stage, context.Cause(ctx))
	}
}

// progress is the stage that an operation is in, for those who wait and for the breakdown of what took how long.
type progress struct {
	now atomic.Pointer[stage]
	log []Stage // of finished stages; the operation's own goroutine writes, and hands it over when it is done
}

type stage struct {
	name  string
	since time.Time
}

// Stage is how long one part of an operation took.
type Stage struct {
	Name string
	Took time.Duration
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
