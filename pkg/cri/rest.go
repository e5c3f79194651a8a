// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"runtime/debug"
	"time"
)

// restAfter is how long after the last call that changed something the daemon is taken to be at rest.
const restAfter = 5 * time.Second

// rest gives what the making of pods took for a moment back to the kernel when they are made. Go's runtime does it over minutes, and
// keeps as much again as is in use (GOGC), which is for a program that goes on allocating; a node's daemon then does nothing for hours.
// It costs one collection, about 10 ms, for each burst of changes.
type rest struct{ timer *time.Timer }

// newRest returns a rest that begins with a disturbance: the daemon's start.
func newRest() *rest { return &rest{time.AfterFunc(restAfter, debug.FreeOSMemory)} }

// disturbed says that something has changed: rest comes later. Nil never rests.
func (r *rest) disturbed() {
	if r != nil {
		r.timer.Reset(restAfter)
	}
}
