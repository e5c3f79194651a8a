// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/embedcri/embedcri/internal/pidfd"
)

// loop hears of deaths until the tracer is closed. It calls nothing that waits,
// and nobody else's code: closing Done is all that others notice of it.
func (t *Tracer) loop() {
	defer close(t.poll.done)
	events := make([]unix.EpollEvent, 128)
	for {
		n, err := t.poll.wait(events)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			// Nothing that epoll_wait(2) lists can happen here. Should it
			// nevertheless, exits must go on being heard of, if late.
			t.count.loopErrors.Add(1)
			klog.ErrorS(err, "exit tracer: wait for exits")
			time.Sleep(100 * time.Millisecond)
			continue
		}
		for _, ev := range events[:n] {
			t.mu.Lock()
			w := t.fds[int(ev.Fd)]
			t.mu.Unlock()
			if w != nil {
				t.wake(w)
			}
		}
	}
}

// How long to leave a corpse that cannot be collected yet, and how often to ask.
const (
	retryMin   = time.Millisecond
	retryMax   = time.Second
	retryLimit = 40 // half a minute: 10 steps up, then each second
)

func backoff(tries int) time.Duration { return min(retryMin<<min(tries, 16), retryMax) }

// wake handles a pidfd that turned readable.
func (t *Tracer) wake(w *Watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd < 0 {
		return
	}
	if w.over { // heard of before; only the corpse is left
		t.collectLocked(w, slot{})
		return
	}
	o := t.observeLocked(w)
	if !o.dead {
		// Before 6.15 a pidfd could wake up for a non-leader execve or a leader
		// that left first (0fb482728ba1); or it is dead in a way nobody can tell
		// yet. Ask again soon.
		t.count.early.Add(1)
		w.tries++
		t.againLocked(w, backoff(w.tries))
		return
	}
	t.settleLocked(w, o)
}

func (t *Tracer) againLocked(w *Watch, after time.Duration) {
	time.AfterFunc(after, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.fd < 0 {
			return
		}
		if err := t.poll.arm(w.fd); err != nil && !errors.Is(err, os.ErrClosed) {
			t.count.loopErrors.Add(1)
			klog.ErrorS(err, "exit tracer: arm pidfd", "key", w.key, "pid", w.pid)
		}
	})
}

// settleLocked ends the watch of a dead process: collect the corpse if it is
// ours, compare what is known, close Done.
func (t *Tracer) settleLocked(w *Watch, o observation) {
	if w.over {
		return
	}
	e, err := o.slot.exit(w.proc, t.clock)
	if err != nil {
		t.count.sources[SourceNone].Add(1)
		err = errLost(w, err)
	} else {
		t.count.sources[e.Source].Add(1)
	}
	w.tries = 0
	if w.fd >= 0 {
		t.collectLocked(w, o.slot)
	}
	w.finishLocked(e, err)
}

// leaveLocked lets go of a watch that Forget has ended. If its process still
// has to be reaped the loop keeps the pidfd until that is done.
func (t *Tracer) leaveLocked(w *Watch) {
	if w.fd >= 0 && pidfd.Signal(w.fd, 0) == unix.ESRCH {
		t.dropLocked(w)
	}
}

// collectLocked reaps w's process if it is our child, and else finds out if
// somebody has. s is what the kernel recorded, to be compared; its state is
// exited if there is anything.
//
// It may have to wait for another: a ptracer that must let go first; a runc that
// still lives and is the parent, until the corpse is handed to us, its
// subreaper; pid 1, to which the children of an earlier daemon went.
func (t *Tracer) collectLocked(w *Watch, s slot) {
	st, err := pidfd.Reap(w.fd)
	if err == nil {
		t.compare(w, s, st, SourceWait)
		t.dropLocked(w)
		return
	}
	if err != pidfd.ErrRunning && pidfd.Signal(w.fd, 0) == unix.ESRCH {
		t.dropLocked(w) // ExitInfo is no second opinion: it tells the leader's code
		return
	}
	w.tries++
	if w.tries > retryLimit && err != pidfd.ErrRunning {
		t.dropLocked(w) // not ours, and its parent does not care
		return
	}
	t.againLocked(w, backoff(w.tries))
}

// compare counts what two sources say about one exit. The first is believed.
func (t *Tracer) compare(w *Watch, s slot, st unix.WaitStatus, other Source) {
	if !s.exited() || s.source() == other {
		return
	}
	t.count.compared.Add(1)
	if uint32(s.Code) == uint32(st) {
		return
	}
	t.count.disagreed.Add(1)
	klog.ErrorS(nil, "exit tracer: sources disagree", "key", w.key, "pid", w.pid,
		"source", s.source(), "status", s.Code, "other", other, "otherStatus", uint32(st))
}
