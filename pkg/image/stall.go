// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"time"
)

// stallWatch ends its context, with cause errStalled, when nobody has called beat for a while. Only
// waiting for others is timed by it; what the node itself is slow at (a sync to disk, a lock, a slot
// for a download) happens before the watch starts or after rest.
type stallWatch struct {
	timer   *time.Timer
	timeout time.Duration
	cancel  context.CancelCauseFunc
}

func watchStall(ctx context.Context, timeout time.Duration) (context.Context, *stallWatch) {
	ctx, cancel := context.WithCancelCause(ctx)
	return ctx, &stallWatch{
		timeout: timeout,
		cancel:  cancel,
		timer:   time.AfterFunc(timeout, func() { cancel(errStalled) }),
	}
}

// beat says that something moved.
func (w *stallWatch) beat() { w.timer.Reset(w.timeout) }

// rest suspends the watch until the next beat.
func (w *stallWatch) rest() { w.timer.Stop() }

// stop ends the watch and its context.
func (w *stallWatch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}
