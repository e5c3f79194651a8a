// SPDX-License-Identifier: Apache-2.0

package task

import (
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// TestNext walks every pair of state and event, so that neither can be added without a decision.
func TestNext(t *testing.T) {
	no := State(255)
	events := []event{evCreated, evFailed, evStart, evStarted, evExited, evRemove}
	want := map[State][]State{
		Creating: {Created, gone, no, no, gone, no},
		Created:  {no, no, Starting, no, Exited, Removing},
		Starting: {no, Exited, no, Running, Exited, no},
		Running:  {no, no, no, no, Exited, no},
		Exited:   {no, Exited, no, Exited, Exited, Removing},
		Removing: {no, no, no, no, Removing, Removing},
		Unknown:  {no, no, no, no, Exited, Removing},
	}
	if len(want) != len(stateNames)-1 || len(events) != len(eventNames) {
		t.Fatal("a state or an event has no row here")
	}
	for s, row := range want {
		for i, e := range events {
			t.Run(s.String()+"/"+e.String(), func(t *testing.T) {
				got, err := next(s, e)
				if row[i] == no {
					if !errdefs.IsFailedPrecondition(err) || got != s {
						t.Fatalf("got %v, %v; want a refusal that changes nothing", got, err)
					}
					return
				}
				if err != nil || got != row[i] {
					t.Fatalf("got %v, %v; want %v", got, err, row[i])
				}
			})
		}
	}
}

func TestExitCode(t *testing.T) {
	for name, c := range map[string]struct {
		exit *Exit
		want int32
	}{
		"not exited":  {nil, 0},
		"success":     {&Exit{Known: true}, 0},
		"code":        {&Exit{Known: true, Wait: exitedWith(42)}, 42},
		"code 128":    {&Exit{Known: true, Wait: exitedWith(128)}, 128},
		"code 255":    {&Exit{Known: true, Wait: exitedWith(255)}, 255},
		"killed":      {&Exit{Known: true, Wait: unix.WaitStatus(unix.SIGKILL)}, 137},
		"core dumped": {&Exit{Known: true, Wait: unix.WaitStatus(unix.SIGSEGV) | 0x80}, 139},
		"lost":        {&Exit{}, 255},
	} {
		if got := c.exit.Code(); got != c.want {
			t.Errorf("%s: got %d, want %d", name, got, c.want)
		}
	}
}
