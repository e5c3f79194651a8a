// SPDX-License-Identifier: Apache-2.0

package task

import "testing"

// TestSettle walks every state, for a record of this boot and of another.
func TestSettle(t *testing.T) {
	for name, c := range map[string]struct {
		stored       Status
		same, reboot verdict
	}{
		"no record":      {Status{}, vDiscard, vDiscard},
		"creating":       {Status{State: Creating}, vDiscard, vDiscard},
		"created":        {Status{State: Created, Pid: 7}, vFollow, vLost},
		"cannot start":   {Status{State: Created, StartError: &StartError{}}, vKeep, vKeep},
		"starting":       {Status{State: Starting, Pid: 7}, vRestart, vLost},
		"running":        {Status{State: Running, Pid: 7}, vFollow, vLost},
		"exited":         {Status{State: Exited, Pid: 7}, vKeep, vKeep},
		"removing":       {Status{State: Removing, Pid: 7}, vKeep, vKeep},
		"unknown, alive": {Status{State: Unknown, Pid: 7}, vFollow, vLost},
	} {
		c.stored.BootID = "this"
		if got := settle(c.stored, "this"); got != c.same {
			t.Errorf("%s: %d, want %d", name, got, c.same)
		}
		if got := settle(c.stored, "another"); got != c.reboot {
			t.Errorf("%s, another boot: %d, want %d", name, got, c.reboot)
		}
	}
}
