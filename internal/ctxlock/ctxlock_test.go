// SPDX-License-Identifier: Apache-2.0

package ctxlock

import (
	"context"
	"errors"
	"testing"
)

func TestLock(t *testing.T) {
	l := New()
	if err := l.Lock(context.Background()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.Lock(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a waiter who gives up: %v", err)
	}
	l.Unlock()
	if err := l.Lock(ctx); err != nil { // free: no reason to look at the context
		t.Error(err)
	}
	l.Unlock()
	defer func() {
		if recover() == nil {
			t.Error("unlock of an unlocked lock goes unnoticed")
		}
	}()
	l.Unlock()
}
