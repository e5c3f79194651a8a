// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const killSignal = unix.SIGKILL

// Stop sends sig, and SIGKILL to everything when grace is over; it returns when the exit is stored. Stopping what is down
// succeeds. A second Stop while one is under way can only shorten its grace period; the signal is sent once.
//
// The stop belongs to the task, not to the caller: it goes on when ctx ends, and a restarted daemon resumes it.
func (t *Task) Stop(ctx context.Context, sig unix.Signal, grace time.Duration) error {
	if err := t.beginStop(sig, grace); err != nil {
		return fmt.Errorf("stop container %s: %w", t.id, err)
	}
	select {
	case <-t.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop container %s: wait for its exit: %w", t.id, context.Cause(ctx))
	}
}

func (t *Task) beginStop(sig unix.Signal, grace time.Duration) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.status.Load()
	switch s.State {
	case Exited, Removing, gone:
		return nil
	case Created, Starting, Unknown:
		grace = 0 // init is parked in the runtime's code, or nobody knows what it is: a polite signal means nothing to it
	}
	if s.State == Created && s.Pid == 0 {
		// It could never be started (StartError): there is nothing to kill, it just ends here.
		return t.endUnstartedLocked()
	}
	deadline := time.Now().Add(max(grace, 0))
	if stop := s.Stop; stop != nil && !deadline.Before(stop.Deadline) {
		t.resumeStopLocked()
		return nil
	}
	err := t.noteLocked(func(s *Status) {
		forced := s.Stop != nil && s.Stop.Forced
		s.Stop = &StopIntent{Signal: sig, Grace: max(grace, 0), Deadline: deadline, Forced: forced, By: os.Getpid()}
	})
	if err != nil {
		return err
	}
	t.resumeStopLocked()
	return nil
}

// resumeStopLocked makes sure that a stopper runs and knows the deadline.
func (t *Task) resumeStopLocked() {
	if t.stopping != nil {
		select {
		case t.stopping <- struct{}{}:
		default: // it has yet to look at the last one
		}
		return
	}
	t.stopping = make(chan struct{}, 1)
	wake := t.stopping
	t.m.wg.Go(func() { t.stopper(wake) })
}

// stopper carries one stop through. It ends with the task's exit.
func (t *Task) stopper(wake <-chan struct{}) {
	intent := t.Status().Stop
	if time.Until(intent.Deadline) > 0 {
		if err := t.signal(intent.Signal); err != nil && !errdefs.IsNotFound(err) {
			t.log().Error(err, "send stop signal", "container", t.id)
		}
		t.thaw() // a signal waits until its process runs
	}
	for {
		left := time.Until(t.Status().Stop.Deadline)
		if left <= 0 {
			break
		}
		timer := time.NewTimer(left)
		select {
		case <-t.exited:
			timer.Stop()
			return
		case <-t.m.closing:
			timer.Stop()
			return
		case <-wake:
			timer.Stop()
		case <-timer.C:
		}
	}
	t.mu.Lock()
	if err := t.noteLocked(func(s *Status) { stop := *s.Stop; stop.Forced, stop.By = true, os.Getpid(); s.Stop = &stop }); err != nil {
		t.log().Error(err, "record forced stop", "container", t.id)
	}
	t.mu.Unlock()
	for {
		t.kill()
		select {
		case <-t.exited:
			return
		case <-t.m.closing:
			return
		case <-time.After(killTimeout): // stuck in the kernel, or frozen by somebody: try again
			t.log().Info("container survives SIGKILL, trying again", "container", t.id)
		}
	}
}

// kill sends SIGKILL to all of the container.
func (t *Task) kill() {
	err := t.signal(unix.SIGKILL)
	if (err != nil || !t.private) && t.cgroup != nil {
		if cerr := t.cgroup.Kill(); cerr != nil {
			t.log().Error(cerr, "kill cgroup", "container", t.id)
		}
	} else if err != nil {
		t.log().Error(err, "kill container", "container", t.id)
	}
	t.thaw()
	if t.watch.Load() == nil && t.Status().State == Unknown {
		// Its record could not be read, so nobody watches its init. The cgroup is empty now, which is the proof of death.
		if alive, err := t.cgroup.Alive(); err == nil && !alive {
			t.onExit(unknownExit())
		}
	}
}

// thaw lets a paused container run, as a frozen process does not act on signals (cgroup v1: not even on SIGKILL).
func (t *Task) thaw() {
	if !t.Status().Paused || t.cgroup == nil {
		return
	}
	if err := t.cgroup.Thaw(); err != nil {
		t.log().Error(err, "thaw container to stop it", "container", t.id)
	}
}

// endUnstartedLocked ends a container that has no process and never will.
func (t *Task) endUnstartedLocked() error {
	s := *t.status.Load()
	to, err := next(s.State, evExited)
	if err != nil {
		return err
	}
	s.State, s.FinishedAt = to, time.Now()
	s.Reason, s.Message = reasonStartError, s.StartError.Message
	s.Exit = &Exit{Known: true, Wait: exitedWith(s.StartError.Code), Source: "start"}
	if err := t.putLocked(s); err != nil {
		return err
	}
	t.status.Store(&s)
	t.m.o.OnChange(t.id, s)
	close(t.exited)
	return nil
}

// signalName is SIGTERM and the like; real-time signals are SIGRTMIN+n, as the C library has them.
func signalName(s unix.Signal) string {
	if n := unix.SignalName(s); n != "" {
		return n
	}
	return "SIGRTMIN" + strings.TrimSuffix(fmt.Sprintf("+%d", int(s)-34), "+0")
}
