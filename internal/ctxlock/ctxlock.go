// SPDX-License-Identifier: Apache-2.0

// Package ctxlock is a mutex whose waiters can give up. It serialises operations that run programs and wait for other machines,
// so a caller whose deadline passes must not be stuck behind one that hangs.
package ctxlock

import (
	"context"
	"fmt"
)

// Lock is a mutual exclusion lock. Make it with New.
type Lock struct{ slot chan struct{} }

// New returns an unlocked Lock.
func New() *Lock { return &Lock{slot: make(chan struct{}, 1)} }

// Lock waits for the lock or for ctx. A nil error means that the caller holds it and has to call Unlock.
func (l *Lock) Lock(ctx context.Context) error {
	select {
	case l.slot <- struct{}{}:
		return nil
	default:
	}
	select {
	case l.slot <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the operation before: %w", context.Cause(ctx))
	}
}

// Unlock releases the lock. It panics if nobody holds it, as that is a slip of the program.
func (l *Lock) Unlock() {
	select {
	case <-l.slot:
	default:
		panic("ctxlock: unlock of an unlocked lock")
	}
}
