// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/pidfd"
)

// observation is what can be found out about a process now.
type observation struct {
	dead bool
	slot slot // exited: how; anything else: nothing knows
}

// observeLocked asks all sources, the most trusted first, and stops at the first that
// knows. A status from another source than BPF goes into the slot at once, before
// anyone reaps the process: reaping destroys the other copy.
func (t *Tracer) observeLocked(w *Watch) observation {
	if s, ok := t.recorded(w); ok {
		return observation{dead: true, slot: s}
	}
	if w.fd < 0 {
		return observation{}
	}
	if st, err := pidfd.Peek(w.fd); err == nil {
		return t.fill(w, uint32(st), 0, SourceWait)
	}
	st, err := readStat(w.pid)
	switch {
	case pidfd.Signal(w.fd, 0) == unix.ESRCH: // reaped; /proc showed it or its successor
		if st, cg, err := pidfd.ExitInfo(w.fd); err == nil {
			return t.fill(w, uint32(st), cg, SourcePidfd)
		}
		return observation{dead: true}
	case err == nil && st.dead(w.pid) && t.statCodes:
		return t.fill(w, uint32(st.code), 0, SourceStat)
	}
	return observation{}
}

// recorded returns what BPF has written down, in the slot or in recent.
func (t *Tracer) recorded(w *Watch) (slot, bool) {
	s, err := t.recs.lookup(w.proc)
	if err != nil {
		return slot{}, false
	}
	if s.exited() {
		return s, true
	}
	r, ok := t.recs.recent(w.proc)
	if !ok {
		return slot{}, false
	}
	// The slot keeps the senders: a signal may have come after the reservation,
	// to a process whose exit was already under way.
	r.Key, r.ReservedAt, r.Kill, r.Other = s.Key, s.ReservedAt, s.Kill, s.Other
	r.Flags |= fromFlag(SourceRecent)
	if err := t.recs.put(w.proc, r); err == nil {
		_ = t.recs.removeRecent(w.proc) // the map forgets it by itself otherwise
	}
	return r, true
}

// fill makes an exited slot of a status that another source than BPF knows.
func (t *Tracer) fill(w *Watch, code uint32, cgroup uint64, from Source) observation {
	s, err := t.recs.lookup(w.proc)
	if err != nil {
		s = slot{Key: uint64(w.key)}
	}
	s.State, s.Code, s.Cgroup = stateExited, int32(code), cgroup
	s.DiedAt = t.clock.bootNow()
	s.Flags |= fromFlag(from)
	_ = t.recs.put(w.proc, s) // only matters to a successor; this daemon has it now
	return observation{dead: true, slot: s}
}

func errLost(w *Watch, err error) error { return fmt.Errorf("exit of process %d: %w", w.pid, err) }

// canReadCodes reports whether field 52 of any zombie's stat is more than a zero
// to us: fs/proc/array.c, do_task_stat() asks ptrace_may_access().
func canReadCodes() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_SYS_PTRACE) != 0
}
