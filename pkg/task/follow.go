// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/embedcri/embedcri/internal/failpoint"
	"github.com/embedcri/embedcri/pkg/exitbpf"
	"github.com/embedcri/embedcri/pkg/task/internal/runc"
)

const (
	killTimeout  = 10 * time.Second // from SIGKILL until the kernel must have ended the process; it can hang in the kernel
	storeRetry   = time.Second      // between attempts to store an exit on a disk that refuses
	drainTimeout = 5 * time.Second  // longest wait for the last words; ioattach's own bounds are far shorter
	deleteFor    = 10 * time.Second // for how long the runtime's delete is repeated while a cgroup is busy with a zombie
)

// follow makes the task hear of its exit. Create calls it for a new process, Load for one that may have outlived the previous
// daemon; from here on nothing can tell which it was.
func (t *Task) follow(pid int) error {
	w, err := t.m.o.Exits.Watch(t.key, pid)
	if err != nil {
		return fmt.Errorf("watch container %s: %w", t.id, err)
	}
	if err := t.identify(w, pid); err != nil {
		return errors.Join(fmt.Errorf("watch container %s: %w", t.id, err), t.m.o.Exits.Forget(t.key))
	}
	t.watch.Store(&w)
	t.m.wg.Go(func() {
		select {
		case <-w.Done(): // closed already if it left while we were away
			x, err := w.Exit()
			t.onExit(x, err)
		case <-t.m.closing:
		}
	})
	return nil
}

// identify notes the start time of a new process, and makes sure that one found again is the one of the record. The tracer does
// that for what it has a record of; where it has none (it was degraded, its pins were removed) it watches whatever bears the
// number, and a later stop would kill a stranger. A stranger is an exitbpf.ErrGone.
func (t *Task) identify(w Watch, pid int) error {
	start, err := startTime(pid)
	if err != nil || w.Signal(0) != nil {
		return nil // gone; what the watch knows of it is the right one's, or nothing
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s := *t.status.Load()
	if s.PidStart == 0 {
		s.PidStart = start
		if s.Parked, err = commandLine(pid); err != nil {
			return nil // gone meanwhile
		}
		t.status.Store(&s) // stored by the transition to Created
		return nil
	}
	if s.PidStart != start {
		return fmt.Errorf("pid %d is another process by now: %w", pid, exitbpf.ErrGone)
	}
	return nil
}

// onExit makes an exit known. The order is what makes it safe to die anywhere in here: the last words are in the log before the
// exit shows, the exit is stored before it shows (if it can be), and the tracer's record goes only once it is.
func (t *Task) onExit(x exitbpf.Exit, err error) {
	if s := t.Streams(); s != nil {
		ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
		s.Drain(ctx)
		cancel()
	}
	t.killRest()
	exit, at := exitOf(x, err)
	t.ownKiller(&exit)
	exit.OOMKills, _ = t.countOOMKills(x.CgroupID) // now: the runtime's delete removes the cgroup
	first := false
	for {
		err := failpoint.ExitRecord.Do(func() error {
			return t.apply(evExited, func(s *Status) {
				if s.Exit != nil {
					return // the first exit wins
				}
				first = true
				s.Exit, s.FinishedAt, s.Paused = &exit, at, false
				s.MidStart = t.Status().State == Starting && s.BootID == t.m.bootID // of another boot nobody can tell whether it began
				if m := stopMessage(*s); m != "" {
					s.Message = m
				}
			})
		})
		if err == nil || t.Status().State == gone {
			break
		}
		t.log().Error(err, "record exit; trying again", "container", t.id)
		select {
		case <-time.After(storeRetry):
		case <-t.m.closing: // the tracer keeps the record for the next daemon
			return
		}
	}
	if first {
		t.logExit(&exit, at)
	}
	t.closeExited()
	t.afterExit()
}

// logExit leaves a line for whoever asks later why a container died. One that ended by itself is nobody's concern.
func (t *Task) logExit(e *Exit, at time.Time) {
	log := t.log().WithValues("container", t.id, "code", e.Code(), "source", e.Source, "at", at)
	if e.OOMKills > 0 {
		log = log.WithValues("oomKills", e.OOMKills)
	}
	switch {
	case !e.Known:
		log.Info("container is gone and left no record of its exit")
	case !e.Wait.Signaled():
		log.V(2).Info("container has exited")
	default:
		log = log.WithValues("signal", SignalName(e.Wait.Signal()), "oom", e.OOM)
		if k := e.Killer; k != nil && k.Kernel {
			log = log.WithValues("by", "kernel", "siCode", k.Code)
		} else if k != nil {
			log = log.WithValues("byPid", k.Pid, "byComm", k.Comm, "byUID", k.UID, "byCgroup", k.CgroupID, "byOwn", e.ByOwn())
		}
		log.Info("container was killed")
	}
}

// exitOf turns the tracer's record into what is stored.
func exitOf(x exitbpf.Exit, err error) (Exit, time.Time) {
	if err != nil {
		return Exit{}, time.Now()
	}
	return Exit{Known: true, Wait: x.Status, OOM: x.OOM, Killer: x.Killer, Source: x.Source.String(), CgroupID: x.CgroupID}, x.At
}

// stopMessage says that it was us, if it was. A process that dies during our grace period may well have been killed by another, or
// by the kernel; the CRI says so from the exit alone.
func stopMessage(s Status) string {
	stop, exit := s.Stop, s.Exit
	if stop == nil || exit == nil || !exit.Known {
		return ""
	}
	if !exit.Wait.Signaled() {
		if stop.Sent && !stop.Forced {
			return fmt.Sprintf("exited after %s from embedcri on StopContainer", SignalName(stop.Signal))
		}
		return ""
	}
	// With nobody seen (degraded mode), it is most likely us.
	if k := exit.Killer; k != nil && (k.Kernel || !slices.Contains(stop.Senders, k.Pid)) || exit.OOM {
		return ""
	}
	switch sig := exit.Wait.Signal(); {
	case stop.Forced && sig == unix.SIGKILL && s.StartedAt.IsZero():
		return "killed by embedcri on request, before it was started"
	case stop.Forced && sig == unix.SIGKILL && stop.Grace <= 0:
		return "killed by embedcri on request, without a grace period" // StopContainer, or StopPodSandbox, or a removal
	case stop.Forced && sig == unix.SIGKILL:
		return fmt.Sprintf("stopped by embedcri on StopContainer, grace period of %s over", forPeople(stop.Grace))
	case stop.Sent && sig == stop.Signal:
		return fmt.Sprintf("stopped by embedcri on StopContainer, with %s", SignalName(stop.Signal))
	}
	return ""
}

// forPeople writes a duration as people do: 30 s.
func forPeople(d time.Duration) string {
	return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + " s"
}

// killRest ends what init has left behind. In a pid namespace of its own the kernel has done so (zap_pid_ns_processes).
func (t *Task) killRest() {
	if t.private || t.cgroup == nil {
		return
	}
	if err := t.cgroup.Kill(); err != nil {
		t.log().Error(err, "kill what is left in the cgroup", "container", t.id)
	}
}

// afterExit does what nobody waits for: the status is made to survive a power loss, the tracer's record goes, and the runtime
// cleans up, so that Delete finds nothing left to do.
func (t *Task) afterExit() {
	t.m.wg.Go(func() {
		for {
			err := failpoint.ExitSync.Do(t.save)
			if err == nil || errors.Is(err, os.ErrNotExist) { // it has been removed
				break
			}
			t.log().Error(err, "store exit status; trying again", "container", t.id)
			select {
			case <-time.After(storeRetry):
			case <-t.m.closing: // the tracer keeps the record for the next daemon
				return
			}
		}
		if err := failpoint.ExitForget.Do(func() error { return t.m.o.Exits.Forget(t.key) }); err != nil {
			t.log().Error(err, "forget exit record", "container", t.id)
		}
		ctx, cancel := context.WithTimeout(context.Background(), runc.DefaultTimeout)
		defer cancel()
		if err := t.op.Lock(ctx); err != nil {
			return // Delete does it
		}
		defer t.op.Unlock()
		if t.Status().State != Exited {
			return
		}
		if err := failpoint.ExitDelete.Do(func() error { return t.deleteRuntime(ctx) }); err != nil {
			t.log().Error(err, "clean up after exit; delete will try again", "container", t.id)
		}
	})
}

// deleteRuntime has the runtime remove its side. A zombie that is not yet reaped keeps its cgroup busy, so that is waited for.
func (t *Task) deleteRuntime(ctx context.Context) error {
	for deadline := time.Now().Add(deleteFor); ; {
		err := t.runtime.Delete(ctx, t.id, t.dir)
		if err == nil {
			err = t.sweepCgroup()
		}
		if !errors.Is(err, runc.ErrBusy) || time.Now().After(deadline) {
			return err
		}
		t.m.o.Reaper.Scan()
		t.killCgroup() // what somebody has put there, or left there outside of its pid namespace
		select {
		case <-time.After(100 * time.Millisecond):
		case <-t.m.closing:
			return err
		}
	}
}

// killCgroup ends whatever is in the cgroup of a container that is over. A cgroup that does not bear the container's name is not
// provably its own.
func (t *Task) killCgroup() {
	if t.cgroup == nil || !strings.Contains(filepath.Base(t.cgroup.Path()), t.id) {
		return
	}
	if err := t.cgroup.Kill(); err != nil {
		t.log().Error(err, "kill what is left in the cgroup", "container", t.id)
	}
}

// sweepCgroup removes what a runtime that was killed half-way has made without noting it: its delete knows nothing of that.
func (t *Task) sweepCgroup() error {
	if t.cgroup == nil || !strings.Contains(filepath.Base(t.cgroup.Path()), t.id) || !t.cgroup.Exists() {
		return nil
	}
	t.killCgroup()
	if err := t.cgroup.RemoveAll(); err != nil {
		return fmt.Errorf("remove cgroup %s: %w: %w", t.cgroup.Path(), err, runc.ErrBusy)
	}
	return nil
}

func (t *Task) closeExited() {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-t.exited:
	default:
		close(t.exited)
	}
}

func (t *Task) log() klog.Logger { return klog.Background() }
