// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// StartError is the reason (ContainerStatus.reason) of a container whose program could not be started.
const reasonStartError = "StartError"

// startErrorCode is the exit code of a container that the runtime could not start for another reason than its command.
const startErrorCode = 128

// Start lifts the barrier. When it returns the user's program runs or has ended. If the runtime cannot start it, the container is
// Exited with the runtime's words as its message.
func (t *Task) Start(ctx context.Context) error {
	if err := t.op.Lock(ctx); err != nil {
		return fmt.Errorf("start container %s: %w", t.id, err)
	}
	defer t.op.Unlock()
	if err := t.apply(evStart, nil); err != nil {
		return err
	}
	if se := t.Status().StartError; se != nil {
		t.startFailed(se.Code, se.Message)
		return fmt.Errorf("start container %s: %s: %w", t.id, se.Message, errdefs.ErrFailedPrecondition)
	}
	started := time.Now() // before: the program may be over when the runtime returns
	if err := t.runtime.Start(ctx, t.id, t.dir); err != nil {
		// Init may have been killed while it was parked: then its exit says more than the runtime's "cannot start".
		if serr := t.signal(unix.SIGKILL); serr == nil {
			select {
			case <-t.exited:
			case <-time.After(killTimeout):
			}
		}
		t.startFailed(startErrorCode, err.Error())
		return fmt.Errorf("start container %s: %w", t.id, err)
	}
	return t.apply(evStarted, func(s *Status) { s.StartedAt = started })
}

// startFailed records why there was never a program. If init's exit is there already, it says more (init was killed, or ran out of
// memory, while it was parked), and only the words are added.
func (t *Task) startFailed(code uint8, message string) {
	err := t.apply(evFailed, func(s *Status) {
		if s.Exit == nil || s.Exit.Killer != nil && s.Exit.Killer.Pid == os.Getpid() {
			s.Exit = &Exit{Known: true, Wait: exitedWith(code), Source: "start"}
		}
		s.Reason, s.Message = reasonStartError, message
		if s.FinishedAt.IsZero() {
			s.FinishedAt = time.Now()
		}
	})
	if err != nil {
		t.log().Error(err, "record failed start", "container", t.id)
	}
	t.closeExited()
}

// StartError is why a container that exists cannot be started.
type StartError struct {
	Code    uint8  `json:"code"` // exit code to report
	Message string `json:"message"`
}
