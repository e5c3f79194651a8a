// SPDX-License-Identifier: Apache-2.0

package task

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/pkg/exitbpf"
	"github.com/embedcri/embedcri/pkg/ioattach"
	"github.com/embedcri/embedcri/pkg/store"
	"github.com/embedcri/embedcri/pkg/task/internal/runc"
)

// ErrHalfMade is returned by Load for a task whose creation was cut off. Discard removes what there is of it.
var ErrHalfMade = errors.New("creation was cut off")

// verdict is what recovery makes of a stored status.
type verdict uint8

const (
	vKeep    verdict = iota // nothing to do: it has ended, or never had a process
	vFollow                 // its process may live; the tracer knows
	vRestart                // as vFollow, and the lifting of the barrier may have been cut off: lift it again
	vLost                   // its process belonged to another boot: gone, with nobody to tell how
	vDiscard                // never finished being made: remove it
)

// settle decides what to do with a task whose record says stored, found by a daemon that runs under boot. It is pure.
func settle(stored Status, boot string) verdict {
	same := stored.BootID == boot
	switch stored.State {
	case Creating, gone:
		return vDiscard
	case Exited, Removing:
		return vKeep
	case Created:
		if stored.Pid == 0 { // StartError
			return vKeep
		}
	case Starting:
		if same {
			return vRestart
		}
	}
	if !same {
		return vLost
	}
	return vFollow
}

// Load brings back a task that a previous daemon has made. It runs no runtime and waits for nothing slow. A record that cannot be
// read gives a task in state Unknown, which can be stopped and removed; its evidence stays.
func (m *Manager) Load(ctx context.Context, id, handler string, o ioattach.Options) (*Task, error) {
	t, err := m.newTask(id, handler, nil)
	if err != nil {
		return nil, err
	}
	if spec, err := readSpec(t.dir); err == nil {
		t.describe(spec)
	}
	var s Status
	switch err := m.o.Store.Get(id, statusRecord, &s); {
	case errors.Is(err, store.ErrDamaged):
		evidence, keepErr := m.o.Store.SetAside(id, statusRecord) // the original is overwritten by the next transition
		t.log().Error(errors.Join(err, keepErr), "status cannot be read; the container can still be stopped and removed", "container", id, "evidence", evidence)
		t.status.Store(&Status{State: Unknown, Message: err.Error()})
		return t, nil
	case errdefs.IsNotFound(err): // recorded, but creation had not begun
		s = Status{State: Creating}
	case err != nil:
		return nil, err
	}
	t.status.Store(&s)
	v := settle(s, m.bootID)
	if v == vFollow || v == vRestart {
		if streams, err := m.o.Streams.Load(t.dir, o); err == nil {
			t.streams.Store(streams)
		} else {
			t.log().Error(err, "take up the streams again", "container", id)
		}
	}
	switch v {
	case vKeep:
		if s.MidStart {
			// The last daemon but one began the start, and the last one died between noting the exit and noting that. Should it not
			// be stored now either, the client's repeated StartContainer does it.
			if err := t.finishStart(ctx); err != nil {
				t.log().Error(err, "finish a start that was cut off", "container", id)
			}
		}
		if s.Exit != nil {
			close(t.exited)
			t.afterExit()
		}
	case vDiscard:
		return nil, fmt.Errorf("load container %s: %w", id, ErrHalfMade)
	case vLost:
		t.onExit(exitbpf.Exit{}, exitbpf.ErrLost)
		if err := t.noteBootTime(); err != nil {
			return nil, err
		}
	case vFollow, vRestart:
		if v == vRestart {
			// Held until the start is finished: the client repeats its StartContainer, and if the program is over already the call
			// must find that it was started.
			if err := t.op.Lock(ctx); err != nil {
				return nil, fmt.Errorf("load container %s: %w", id, err)
			}
		}
		if s.State == Running {
			t.letBarrierGo()
		}
		if t.cgroup != nil && s.State == Running { // a daemon may have died between a pause and its record
			s.Paused = t.cgroup.Frozen()
			t.status.Store(&s)
		}
		if err := t.follow(s.Pid); errors.Is(err, exitbpf.ErrGone) {
			t.onExit(exitbpf.Exit{}, exitbpf.ErrLost)
		} else if err != nil {
			// It costs this container, not the node: it may live, so it is not Exited, and it can be stopped. The record stays as it
			// is, for a daemon that can watch.
			t.log().Error(err, "container cannot be watched", "container", id)
			s.State, s.Message = Unknown, err.Error()
			t.status.Store(&s)
			if v == vRestart {
				t.op.Unlock()
			}
			return t, nil
		}
		t.awaitKnownExit()
		if v == vRestart {
			m.wg.Go(t.restart)
		}
		if s.Stop != nil {
			t.mu.Lock()
			t.resumeStopLocked()
			t.mu.Unlock()
		}
	}
	return t, nil
}

// awaitKnownExit lets an exit of the down-time be stored and shown before Load returns, so that the first list of a restarted
// daemon is right. It waits for what is known already, and not for long.
func (t *Task) awaitKnownExit() {
	w := t.watch.Load()
	if w == nil {
		return // there was nothing left to watch, and that has been said
	}
	select {
	case <-(*w).Done():
	default:
		return // it lives
	}
	select {
	case <-t.exited:
	case <-time.After(drainTimeout):
	case <-t.m.closing:
	}
}

// restart goes on with a start that the previous daemon had begun, and lets go of op, which Load has taken for it.
func (t *Task) restart() {
	defer t.op.Unlock()
	if err := t.finishStart(context.Background()); err != nil {
		t.log().Error(err, "go on with a start that was cut off", "container", t.id)
	}
}

// finishStart lifts the barrier that may or may not have been lifted. It needs op.
func (t *Task) finishStart(ctx context.Context) error {
	s := t.Status()
	if s.State != Starting && s.State != Exited {
		return nil // done, or removed meanwhile
	}
	if s.State == Starting && t.parked(s) {
		return t.startLocked(ctx)
	}
	t.letBarrierGo()
	return t.apply(evStarted, func(s *Status) {
		s.Parked, s.MidStart = "", false
		if !s.StartedAt.IsZero() {
			return
		}
		s.StartedAt = time.Now()
		if !s.FinishedAt.IsZero() && s.FinishedAt.Before(s.StartedAt) {
			s.StartedAt = s.FinishedAt // it ran while there was no daemon to note when
		}
	})
}

// letBarrierGo ends what a daemon that died in a start may have had the keeper hold, once init has passed it.
func (t *Task) letBarrierGo() { t.m.o.Streams.LetGo(runc.StartEnd(t.dir)) }

// parked tells whether init still waits to become the user's program: while it does it has the command line that the runtime gave
// it, and for a moment longer, which the runtime's record tells. Asking the runtime to start what runs already is no way to find
// out: a runc that was killed between the two halves of a start leaves its fifo behind, and the next would wait at it for ever.
func (t *Task) parked(s Status) bool {
	if t.signal(0) != nil {
		return false // gone
	}
	if t.runtime.Passed(t.id) {
		return false
	}
	line, err := commandLine(s.Pid)
	return err == nil && line == s.Parked
}

// commandLine is /proc/<pid>/cmdline, with its NULs (proc_pid_cmdline(5)).
func commandLine(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return string(b), err
}

// noteBootTime dates the end of a process of another boot: it was over, at the latest, when this boot began.
func (t *Task) noteBootTime() error {
	at, err := bootTime()
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.noteLocked(func(s *Status) { s.FinishedAt = at })
}

// bootTime is now less the time since boot (CLOCK_BOOTTIME counts suspends).
func bootTime() (time.Time, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return time.Time{}, fmt.Errorf("read boot time: %w", err)
	}
	return time.Now().Add(-time.Duration(ts.Nano())), nil
}

// startTime is field 22 of /proc/<pid>/stat: when the process was made, in clock ticks since boot (proc_pid_stat(5)).
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read start time: %w", err)
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:]) // the name, field 2, may hold anything; f[0] is field 3
	if len(f) < 22-2 {
		return 0, fmt.Errorf("read start time of process %d: %q", pid, b)
	}
	return strconv.ParseUint(string(f[22-3]), 10, 64)
}
