// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"testing"

	"github.com/containerd/errdefs"
)

// TestNext walks every pair of state and event.
func TestNext(t *testing.T) {
	const no = State("")
	events := []event{evMade, evStop, evStopped, evRemove}
	for s, row := range map[State][]State{
		Creating: {Ready, Stopping, no, no},
		Ready:    {no, Stopping, no, no},
		Stopping: {no, Stopping, NotReady, no},
		NotReady: {no, NotReady, NotReady, Removing},
		Removing: {no, Removing, Removing, Removing},
		Unknown:  {no, Stopping, no, no},
	} {
		for i, e := range events {
			got, err := next(s, e)
			if row[i] == no && (!errdefs.IsFailedPrecondition(err) || got != s) {
				t.Errorf("%s/%s: %s, %v; want a refusal that changes nothing", s, e, got, err)
			}
			if row[i] != no && (err != nil || got != row[i]) {
				t.Errorf("%s/%s: %s, %v; want %s", s, e, got, err, row[i])
			}
		}
	}
}
