// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/failpoint"
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
	if done, err := t.resumeStart(ctx); done {
		return err
	}
	if err := failpoint.TaskStarting.Do(func() error { return t.apply(evStart, nil) }); err != nil {
		return err
	}
	err := t.startLocked(ctx)
	t.told = err == nil
	return err
}

// resumeStart is for a Start that repeats one which was cut off, by the daemon's death or by a failure that says nothing of the
// container: it goes on from there, or has nothing left to do. Other repeated Starts are refused by the table.
func (t *Task) resumeStart(ctx context.Context) (done bool, err error) {
	s := t.Status()
	switch {
	case s.State == Starting, s.State == Exited && s.MidStart:
		err := t.finishStart(ctx)
		t.told = err == nil
		return true, err
	case !t.told && (s.State == Running || s.State == Exited && !s.StartedAt.IsZero()):
		t.told = true // the daemon that started it may have died before it could say so
		return true, nil
	}
	return false, nil
}

// startLocked lifts the barrier of a task that is Starting. It needs op.
func (t *Task) startLocked(ctx context.Context) error {
	if se := t.Status().StartError; se != nil {
		t.startFailed(se.Code, se.Message)
		return fmt.Errorf("start container %s: %s: %w", t.id, se.Message, errdefs.ErrFailedPrecondition)
	}
	started := time.Now() // before: the program may be over when the runtime returns
	if err := failpoint.RuntimeStart.Do(func() error { return t.runtime.Start(ctx, t.id, t.dir) }); err != nil {
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
	return failpoint.TaskRunning.Do(func() error {
		return t.apply(evStarted, func(s *Status) { s.StartedAt, s.Parked, s.MidStart = started, "", false })
	})
}

// startFailed records why there was never a program. If init's exit is there already, it says more (init was killed, or ran out of
// memory, while it was parked), and only the words are added.
func (t *Task) startFailed(code uint8, message string) {
	err := t.apply(evFailed, func(s *Status) {
		if s.Exit == nil || s.Exit.Killer != nil && s.Exit.Killer.Pid == os.Getpid() {
			s.Exit = &Exit{Known: true, Wait: exitedWith(code), Source: "start"}
		}
		s.Reason, s.Message, s.MidStart = reasonStartError, message, false
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
