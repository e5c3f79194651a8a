// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"bytes"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// The types below are shared with bpf/exit.bpf.c, field by field; TestLayout
// compares them with the object's BTF. No padding anywhere, so that bytes can be
// copied as they are. A change of any of them is a new layout: see layoutDir.

// proc is the key of the maps watched and recent: one process for ever.
type proc struct {
	Pid   uint32
	Pidns uint32
	Start uint64 // start time as in field 22 of /proc/<pid>/stat, without a time namespace's offset
}

type rawSender struct {
	At      uint64
	Cgroup  uint64
	Signal  int32
	Code    int32
	Pid     uint32
	UID     uint32
	Flags   uint32
	HostPid uint32
	Comm    [16]byte
}

type slot struct {
	Key        uint64
	ReservedAt uint64
	DiedAt     uint64
	Cgroup     uint64
	State      uint32
	Flags      uint32
	Code       int32
	HostPid    uint32
	Comm       [16]byte
	Kill       rawSender
	Other      rawSender
	Spare      [4]uint64
}

type rawOOM struct {
	Kills uint64
	At    uint64
	Pid   uint32
	Spare uint32
	Comm  [16]byte
}

// Slot states. A slot is born armed; exited is for ever.
const (
	stateArmed   = 1
	stateWriting = 2 // the kernel is at it; treat as armed
	stateExited  = 3
)

const (
	exitOOM   = 1
	exitGroup = 2
	// Set by userspace when the slot was filled from another source than on_exit.
	exitFromRecent = 1 << 16
	exitFromWait   = 2 << 16
	exitFromStat   = 3 << 16
	exitFromPidfd  = 4 << 16
	exitFromMask   = 7 << 16
)

const (
	senderKernel = 1
	senderNoInfo = 2
)

// Indexes into the map stats.
const (
	statExits = iota
	statRecent
	statRecentFailed
	statSignals
	statOOM
	statOOMFailed
	statCount
)

func (s *slot) exited() bool { return s.State == stateExited }

// exit reads an exited slot. A slot that does not make sense (corrupted pins)
// is an error, never a status.
func (s *slot) exit(p proc, c clock) (Exit, error) {
	if s.State != stateExited {
		return Exit{}, fmt.Errorf("slot %016x in state %d has no exit: %w", s.Key, s.State, ErrLost)
	}
	st := unix.WaitStatus(uint32(s.Code))
	// An exit has a code and nothing in the low byte, a signal nothing in the high
	// one; 0x7f there is a stop.
	if s.Code < 0 || s.Code > 0xffff || st.Exited() && st&0xff != 0 || !st.Exited() && (!st.Signaled() || st>>8 != 0) {
		return Exit{}, fmt.Errorf("slot %016x holds %#x, which is no exit status: %w", s.Key, uint32(s.Code), ErrLost)
	}
	e := Exit{
		Key:      Key(s.Key),
		Pid:      int(p.Pid),
		Status:   st,
		At:       c.wall(s.DiedAt),
		CgroupID: s.Cgroup,
		Source:   s.source(),
	}
	if !st.Signaled() {
		return e, nil
	}
	e.Killer = s.killer(st.Signal(), e.At)
	// oom_mm alone says only that the process was let into the reserves; one
	// that somebody else had killed before gets that too (task_will_free_mem).
	e.OOM = s.Flags&exitOOM != 0 && st.Signal() == unix.SIGKILL && (e.Killer == nil || e.Killer.Kernel)
	return e, nil
}

func (s *slot) source() Source {
	switch s.Flags & exitFromMask {
	case exitFromRecent:
		return SourceRecent
	case exitFromWait:
		return SourceWait
	case exitFromStat:
		return SourceStat
	case exitFromPidfd:
		return SourcePidfd
	}
	return SourceBPF
}

func fromFlag(s Source) uint32 {
	switch s {
	case SourceRecent:
		return exitFromRecent
	case SourceWait:
		return exitFromWait
	case SourceStat:
		return exitFromStat
	case SourcePidfd:
		return exitFromPidfd
	}
	return 0
}

// killer returns the recorded sender of sig, the signal the process died of at
// the wall time died. Its own time is counted from there: two looks at the wall
// clock, with a step in between, could have it kill after the death.
func (s *slot) killer(sig unix.Signal, died time.Time) *Sender {
	r := &s.Other
	if sig == unix.SIGKILL {
		r = &s.Kill
	}
	if r.At == 0 || r.Signal != int32(sig) {
		return nil
	}
	return &Sender{
		Signal:   sig,
		Kernel:   r.kernel(),
		Pid:      int(r.Pid),
		UID:      r.UID,
		Comm:     comm(r.Comm[:]),
		CgroupID: r.Cgroup,
		Code:     int(r.Code),
		At:       died.Add(-time.Duration(s.DiedAt - r.At)),
	}
}

// Codes below zero that only the kernel means, whoever happens to run when the
// timer fires or the I/O completes: include/uapi/asm-generic/siginfo.h.
const (
	siTimer   = -2
	siAsyncIO = -4
	siSigIO   = -5
)

func (r *rawSender) kernel() bool {
	if r.Flags&senderKernel != 0 {
		return true
	}
	// Sent without siginfo to oneself by oneself for writing to a broken pipe.
	if r.Flags&senderNoInfo != 0 && unix.Signal(r.Signal) == unix.SIGPIPE {
		return true
	}
	return r.Code == siTimer || r.Code == siAsyncIO || r.Code == siSigIO
}

func comm(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(bytes.ToValidUTF8(b, []byte("?")))
}
