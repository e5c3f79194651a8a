// SPDX-License-Identifier: Apache-2.0

package task

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// State is where a container is in its life.
type State uint8

// The states. The zero value is not a state.
const (
	_        State = iota
	Creating       // recorded; the runtime has not answered yet
	Created        // init is parked at the runtime's barrier, and watched
	Starting       // the barrier is being lifted
	Running        // the user's program runs
	Exited         // no process is left; the status is known, or known to be lost
	Removing       // being taken apart
	Unknown        // the record cannot be read; only an exit or a removal leads out of it
)

var stateNames = [...]string{"none", "creating", "created", "starting", "running", "exited", "removing", "unknown"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// event is what can happen to a task.
type event uint8

const (
	evCreated event = iota // the runtime has made the container; init is parked
	evFailed               // the runtime could not create or start it
	evStart                // somebody asks to start
	evStarted              // the runtime has lifted the barrier
	evExited               // the tracer reports that init is dead
	evRemove               // somebody asks to remove
)

var eventNames = [...]string{"created", "failed", "start", "started", "exited", "remove"}

func (e event) String() string { return eventNames[e] }

// gone is where a task goes that never came to be.
const gone State = 0

// transitions has a row for each state; what is absent is refused.
var transitions = map[State]map[event]State{
	Creating: {evCreated: Created, evFailed: gone, evExited: gone},
	Created:  {evStart: Starting, evExited: Exited, evRemove: Removing},
	Starting: {evFailed: Exited, evStarted: Running, evExited: Exited},
	Running:  {evExited: Exited},
	Exited:   {evFailed: Exited, evStarted: Exited, evExited: Exited, evRemove: Removing},
	Removing: {evExited: Removing, evRemove: Removing},
	Unknown:  {evExited: Exited, evRemove: Removing},
}

// next returns the state that follows s on e, or ErrFailedPrecondition. It is pure.
func next(s State, e event) (State, error) {
	to, ok := transitions[s][e]
	if !ok {
		return s, fmt.Errorf("%s in state %s: %w", e, s, errdefs.ErrFailedPrecondition)
	}
	return to, nil
}
