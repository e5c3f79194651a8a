// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"sync"
)

// errAbandoned is the cause of a flight's context when its last waiter has left.
var errAbandoned = errors.New("nobody waits for it any more")

// flights runs at most one operation per key and lets every caller of that key wait for it. Unlike
// golang.org/x/sync/singleflight, an operation belongs to all of its callers: one that gives up leaves
// the others waiting, and when the last one has left, the operation's context ends.
//
// The zero value is ready.
type flights[K comparable, T any] struct {
	mu sync.Mutex
	m  map[K]*flight[T]
	wg sync.WaitGroup
}

type flight[T any] struct {
	done    chan struct{} // closed when value and err are set
	value   T
	err     error
	waiters int                     // guarded by flights.mu
	cancel  context.CancelCauseFunc // called with errAbandoned when waiters falls to 0
}

// join returns the flight of key. If there is none it starts op, whose context carries the values of
// ctx and ends with base or when the flight is abandoned. Every join needs a leave.
//
// A flight that has been abandoned but has not ended yet is waited for: its successor may use what it
// is letting go of.
func (f *flights[K, T]) join(ctx, base context.Context, key K, op func(context.Context) (T, error)) (*flight[T], error) {
	for {
		f.mu.Lock()
		old := f.m[key]
		if old == nil || old.waiters > 0 {
			break
		}
		f.mu.Unlock()
		select {
		case <-old.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	defer f.mu.Unlock()
	if fl := f.m[key]; fl != nil {
		fl.waiters++
		return fl, nil
	}
	if err := base.Err(); err != nil {
		return nil, err
	}
	opCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	unhook := context.AfterFunc(base, func() { cancel(context.Cause(base)) })
	fl := &flight[T]{done: make(chan struct{}), waiters: 1, cancel: cancel}
	if f.m == nil {
		f.m = map[K]*flight[T]{}
	}
	f.m[key] = fl
	f.wg.Go(func() {
		value, err := op(opCtx)
		unhook()
		cancel(nil)
		f.mu.Lock()
		delete(f.m, key)
		f.mu.Unlock()
		fl.value, fl.err = value, err
		close(fl.done)
	})
	return fl, nil
}

// leave takes back a join.
func (f *flights[K, T]) leave(fl *flight[T]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl.waiters--; fl.waiters == 0 {
		fl.cancel(errAbandoned)
	}
}

// wait returns when no flight is left. The caller has ended their base context.
func (f *flights[K, T]) wait() { f.wg.Wait() }

// keyLock is a set of mutexes by name, each of which can be waited for with a context. It is the
// unpack.KeyedLocker of this store: the same blob or layer of two pulls is worked on once.
//
// The zero value is ready.
type keyLock struct {
	mu sync.Mutex
	m  map[string]*keyEntry
}

type keyEntry struct {
	users int           // holder and waiters, guarded by keyLock.mu
	free  chan struct{} // one token, taken by the holder
}

// Lock waits for the mutex called key.
func (l *keyLock) Lock(ctx context.Context, key string) error {
	l.mu.Lock()
	if l.m == nil {
		l.m = map[string]*keyEntry{}
	}
	e := l.m[key]
	if e == nil {
		e = &keyEntry{free: make(chan struct{}, 1)}
		e.free <- struct{}{}
		l.m[key] = e
	}
	e.users++
	l.mu.Unlock()

	select {
	case <-e.free:
		return nil
	case <-ctx.Done():
		l.drop(key, e)
		return context.Cause(ctx)
	}
}

// Unlock gives the mutex called key back.
func (l *keyLock) Unlock(key string) {
	l.mu.Lock()
	e := l.m[key]
	l.mu.Unlock()
	e.free <- struct{}{}
	l.drop(key, e)
}

func (l *keyLock) drop(key string, e *keyEntry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.users--; e.users == 0 {
		delete(l.m, key)
	}
}
