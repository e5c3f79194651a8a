// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// State is where a pod is in its life.
type State string

// The states of a pod. Removed pods have none.
const (
	Creating State = "creating"
	Ready    State = "ready"
	Stopping State = "stopping"
	NotReady State = "not ready"
	Removing State = "removing"
	Unknown  State = "unknown" // its record cannot be read
)

type event string

const (
	evMade    event = "made"
	evStop    event = "stop"
	evStopped event = "stopped"
	evRemove  event = "remove"
)

// transitions has a row for each state; what is absent is refused. Stop and remove may be repeated at any time.
var transitions = map[State]map[event]State{
	Creating: {evMade: Ready, evStop: Stopping},
	Ready:    {evStop: Stopping},
	Stopping: {evStop: Stopping, evStopped: NotReady},
	NotReady: {evStop: NotReady, evStopped: NotReady, evRemove: Removing},
	Removing: {evStop: Removing, evStopped: Removing, evRemove: Removing},
	Unknown:  {evStop: Stopping},
}

func next(s State, e event) (State, error) {
	to, ok := transitions[s][e]
	if !ok {
		return s, fmt.Errorf("%s in state %s: %w", e, s, errdefs.ErrFailedPrecondition)
	}
	return to, nil
}
