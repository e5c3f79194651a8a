// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Key names one watched process for ever; a pid names it only while it lives.
// Callers choose it: the first 8 bytes of a container's or exec's random id, so
// there is nothing to allocate and nothing to remember.
type Key uint64

// KeyOf returns the key of a hexadecimal id of at least 16 digits.
func KeyOf(id string) (Key, error) {
	var b [8]byte
	if len(id) < 16 {
		return 0, fmt.Errorf("key of id %q: shorter than 16 digits: %w", id, errdefs.ErrInvalidArgument)
	}
	if _, err := hex.Decode(b[:], []byte(id[:16])); err != nil {
		return 0, fmt.Errorf("key of id %q: %w: %w", id, err, errdefs.ErrInvalidArgument)
	}
	return Key(binary.BigEndian.Uint64(b[:])), nil
}

// String returns the 16 hexadecimal digits that the id began with.
func (k Key) String() string { return fmt.Sprintf("%016x", uint64(k)) }

// Exit tells how a process ended.
type Exit struct {
	Key Key
	Pid int // as this process' pid namespace numbers it

	// Status is exactly what wait(2) would report: exit code, signal and core
	// flag, apart from each other. Turning them into 128+n is the caller's.
	Status unix.WaitStatus

	// At is when the kernel saw the last thread go, as wall time by the present
	// offset between CLOCK_BOOTTIME (which runs on while the machine sleeps) and
	// CLOCK_REALTIME. If Source is neither SourceBPF nor SourceRecent nobody took
	// the time and At is when the tracer noticed.
	At time.Time

	// OOM: the kernel's OOM killer killed this very process (not a child of it).
	OOM bool

	// Killer is who generated the signal the process died of; nil if it died of
	// none, or if nobody saw.
	Killer *Sender

	// CgroupID is the cgroup the process was in when it died, as in
	// Sender.CgroupID; 0 if unknown.
	CgroupID uint64

	Source Source
}

// Sender tells who generated a signal, as the kernel saw them at that moment.
type Sender struct {
	Signal unix.Signal
	// Kernel: the kernel itself decided to: a fault, the OOM killer, a timer, a
	// terminal, the end of the pid namespace. Pid, UID, Comm and CgroupID then
	// name whatever ran at that moment; often the victim, sometimes a stranger,
	// and never to be called the killer.
	Kernel bool
	// Pid of the sending process in this process' pid namespace, 0 if it cannot
	// be seen from there.
	Pid      int
	UID      uint32 // real user id in the initial user namespace
	Comm     string // name of the sending process (its thread group leader's comm)
	CgroupID uint64 // inode number of its cgroup's directory: unified hierarchy, or v1 memory where that is in use
	Code     int    // si_code, see sigaction(2): 0 SI_USER, -6 SI_TKILL, > 0 kernel
	At       time.Time
}

// Source says which source an exit status came from.
type Source int

// Sources, the most trusted first. All that know are asked; Stats counts
// disagreements.
const (
	SourceNone   Source = iota // nothing knows: ErrLost
	SourceBPF                  // the slot reserved by Watch, written by the kernel at death
	SourceRecent               // BPF's record of recent exits: the process died before Watch
	SourceWait                 // waitid(2): it was our child
	SourceStat                 // exit_code in /proc/<pid>/stat of a zombie
	SourcePidfd                // PIDFD_GET_INFO of a reaped process, Linux 6.15
	sourceCount
)

// Sources lists them all, for metrics with a series each.
func Sources() []Source {
	return []Source{SourceNone, SourceBPF, SourceRecent, SourceWait, SourceStat, SourcePidfd}
}

// String returns the source as a metric label.
func (s Source) String() string {
	switch s {
	case SourceNone:
		return "unknown"
	case SourceBPF:
		return "bpf"
	case SourceRecent:
		return "recent"
	case SourceWait:
		return "wait"
	case SourceStat:
		return "stat"
	case SourcePidfd:
		return "pidfd"
	}
	return fmt.Sprintf("source(%d)", int(s))
}

// Errors that callers tell apart. All carry an errdefs class.
var (
	// ErrFull: every slot is taken. Watch says so before anything can be lost.
	ErrFull = fmt.Errorf("exit tracer has no free slot: %w", errdefs.ErrResourceExhausted)
	// ErrGone: Watch found neither such a process nor a record of its exit.
	ErrGone = fmt.Errorf("no such process and no record of its exit: %w", errdefs.ErrNotFound)
	// ErrLost: the process is gone and no source knows how it ended.
	ErrLost = fmt.Errorf("process is gone and left no exit record: %w", errdefs.ErrDataLoss)
	// ErrForgotten: the watch was ended by Forget while the process lived.
	ErrForgotten = fmt.Errorf("watch was forgotten before the process ended: %w", errdefs.ErrAborted)
	// ErrClosed: the tracer has been closed.
	ErrClosed = fmt.Errorf("exit tracer is closed: %w", errdefs.ErrUnavailable)
)
