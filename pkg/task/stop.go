// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/failpoint"
	"github.com/embedcri/embedcri/pkg/exitbpf"
	"github.com/embedcri/embedcri/pkg/task/internal/runc"
)

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
	old := s.Stop
	if old == nil {
		old = &StopIntent{Signal: sig}
	}
	err := failpoint.StopIntent.Do(func() error {
		return t.noteStopLocked(old.with(func(i *StopIntent) {
			i.Grace, i.Deadline = max(grace, 0), deadline
			i.sign()
			if !i.Sent {
				i.Signal = sig
			}
		}))
	})
	if err != nil {
		return err
	}
	t.resumeStopLocked()
	return nil
}

// sign adds this daemon to those who have a hand in the stop.
func (i *StopIntent) sign() {
	if me := os.Getpid(); !slices.Contains(i.Senders, me) {
		i.Senders = append(i.Senders, me)
	}
}

// noteStopLocked stores i. In state Unknown it is only kept in memory: the record on disk is damaged, and stays as it is until the
// container is known to be dead.
func (t *Task) noteStopLocked(i *StopIntent) error {
	if s := *t.status.Load(); s.State == Unknown {
		s.Stop = i
		t.status.Store(&s)
		return nil
	}
	// A disk that takes no record must not keep a container alive: without it, the next daemon is merely asked once more.
	s := t.Status()
	s.Stop = i
	if err := t.putLocked(s); err != nil {
		t.log().Error(err, "stop is not on record; going on without", "container", t.id)
	}
	t.status.Store(&s)
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
	t.sendStopSignal()
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
	if !t.noteForced() {
		return
	}
	for {
		t.kill()
		if t.Status().State == Unknown && t.endUnwatched() {
			return
		}
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

// sendStopSignal sends the stop signal, unless that has been done or the grace period is over already.
func (t *Task) sendStopSignal() {
	t.mu.Lock()
	stop := t.Status().Stop
	if stop.Sent || stop.Forced || time.Until(stop.Deadline) <= 0 {
		t.mu.Unlock()
		t.thaw() // a daemon that died may have sent it to a frozen container
		return
	}
	// First shown, for the exit path, which may run as soon as the signal is out. Then sent, and then stored: a daemon that dies in
	// between has its successor send it again rather than not at all.
	s := *t.status.Load()
	s.Stop = stop.with(func(i *StopIntent) { i.Sent = true })
	t.status.Store(&s)
	t.mu.Unlock()

	err := failpoint.StopSignal.Do(func() error { return t.signal(stop.Signal) })
	if err != nil && !errdefs.IsNotFound(err) {
		t.log().Error(err, "send stop signal", "container", t.id)
	}
	t.thaw() // a signal waits until its process runs
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := failpoint.StopSent.Do(func() error { return t.noteStopLocked(t.Status().Stop) }); err != nil {
		t.log().Error(err, "record stop signal", "container", t.id)
	}
}

// noteForced records that SIGKILL is about to be sent, and by whom: the exit path goes by it. It returns false if the container
// has ended meanwhile.
func (t *Task) noteForced() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.Status()
	if s.State == Exited || s.State == Removing || s.State == gone {
		return false
	}
	forced := s.Stop.with(func(i *StopIntent) { i.Forced = true; i.sign() })
	if err := failpoint.StopForced.Do(func() error { return t.noteStopLocked(forced) }); err != nil {
		t.log().Error(err, "record forced stop", "container", t.id)
	}
	return true
}

// kill sends SIGKILL to all of the container.
func (t *Task) kill() {
	err := failpoint.StopKill.Do(func() error { return t.signal(unix.SIGKILL) })
	if (err != nil || !t.private) && t.cgroup != nil {
		if cerr := t.cgroup.Kill(); cerr != nil {
			t.log().Error(cerr, "kill cgroup", "container", t.id)
		}
	} else if err != nil && !errdefs.IsNotFound(err) {
		t.log().Error(err, "kill container", "container", t.id)
	}
	t.thaw()
}

// endUnwatched ends a container whose record could not be read, so that nobody watches its init and no exit will be reported. What
// proves it dead is that its cgroup is empty; where not even the cgroup is known, that the runtime, which kills what runs, has
// deleted the container or does not know it.
func (t *Task) endUnwatched() bool {
	if t.cgroup == nil {
		ctx, cancel := context.WithTimeout(context.Background(), runc.DefaultTimeout)
		defer cancel()
		if err := t.op.Lock(ctx); err != nil {
			return false
		}
		defer t.op.Unlock()
		if err := t.deleteRuntime(ctx); err != nil {
			t.log().Error(err, "end container without a record", "container", t.id)
			return false
		}
	} else {
		for deadline := time.Now().Add(killTimeout); ; {
			alive, err := t.cgroup.Alive()
			if err == nil && !alive {
				break
			}
			if time.Now().After(deadline) {
				return false
			}
			select {
			case <-time.After(emptyPoll):
			case <-t.m.closing:
				return false
			}
		}
	}
	t.onExit(exitbpf.Exit{}, exitbpf.ErrLost)
	return true
}

// emptyPoll is how often a dying cgroup is looked at; it takes about a millisecond.
const emptyPoll = 5 * time.Millisecond

// thaw lets a paused container run, as a frozen process does not act on signals (cgroup v1: not even on SIGKILL). The kernel is
// asked, not the record: who froze it may have died before noting that.
func (t *Task) thaw() {
	if t.cgroup == nil || !t.cgroup.Frozen() {
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
		t.log().Error(err, "end is not on record; going on without", "container", t.id)
	}
	t.status.Store(&s)
	t.m.o.OnChange(t.id, s)
	close(t.exited)
	return nil
}

// SignalName is SIGTERM and the like; real-time signals are SIGRTMIN+n, as the C library has them.
func SignalName(s unix.Signal) string {
	if n := unix.SignalName(s); n != "" {
		return n
	}
	return "SIGRTMIN" + strings.TrimSuffix(fmt.Sprintf("+%d", int(s)-34), "+0")
}
