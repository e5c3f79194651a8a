// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
)

type counters struct {
	sources    [sourceCount]atomic.Uint64
	compared   atomic.Uint64
	disagreed  atomic.Uint64
	early      atomic.Uint64
	loopErrors atomic.Uint64
	full       atomic.Uint64
}

// Stats are the tracer's numbers, for metrics. Those of the kernel side count
// since its maps were made, beyond restarts; the others since Open.
type Stats struct {
	Slots    int // taken: watched, or exited and not yet forgotten
	Capacity int
	Bytes    int // kernel memory of the slots, about

	Exits     [sourceCount]uint64 // index: Source; how each status was learned
	Compared  uint64              // exits that two sources knew
	Disagreed uint64              // of these, told differently
	Early     uint64              // wake-ups of pidfds whose process lived on
	Full      uint64              // Watch calls refused with ErrFull
	LoopError uint64              // should stay 0

	Kernel KernelStats // all 0 in degraded mode
}

// KernelStats are counted by the BPF programs. The failures are drops: anything
// but 0 means that something was not recorded.
type KernelStats struct {
	Recorded     uint64 // exits written into slots
	Recent       uint64 // exits kept in case they turn out to be execs of ours
	RecentFailed uint64
	Signals      uint64 // senders noted
	OOMKills     uint64 // by the kernel, anywhere on this machine
	OOMFailed    uint64 // counts per cgroup that found no room
}

// Stats returns the present numbers.
func (t *Tracer) Stats() Stats {
	t.mu.Lock()
	s := Stats{Slots: len(t.slots), Capacity: t.capacity, Bytes: t.capacity * SlotMemory}
	closed := t.closed
	t.mu.Unlock()
	for i := range s.Exits {
		s.Exits[i] = t.count.sources[i].Load()
	}
	s.Compared = t.count.compared.Load()
	s.Disagreed = t.count.disagreed.Load()
	s.Early = t.count.early.Load()
	s.Full = t.count.full.Load()
	s.LoopError = t.count.loopErrors.Load()
	if closed {
		return s
	}
	k := t.recs.counters()
	s.Kernel = KernelStats{
		Recorded:     k[statExits],
		Recent:       k[statRecent],
		RecentFailed: k[statRecentFailed],
		Signals:      k[statSignals],
		OOMKills:     k[statOOM],
		OOMFailed:    k[statOOMFailed],
	}
	return s
}

// OOMs are the kernel's OOM kills of processes in one memory cgroup or below.
type OOMs struct {
	Kills uint64
	Last  time.Time // when the last one was, zero if there was none
	Pid   int       // of the last one, 0 if it cannot be seen from here
	Comm  string    // of the last one
}

// OOMKills returns the OOM kills in the cgroup whose directory has the inode
// number cgroupID (v2, or the memory controller's on v1), as memory.events
// counts them: descendants and any watched process included. Only the 4,096
// cgroups that saw kills last are known. An errdefs.ErrUnavailable: nobody
// counts, BPF is not in use.
func (t *Tracer) OOMKills(cgroupID uint64) (OOMs, error) {
	t.mu.Lock()
	closed := t.closed
	t.mu.Unlock()
	if closed {
		return OOMs{}, ErrClosed
	}
	if !t.mode.BPF {
		return OOMs{}, fmt.Errorf("OOM kills of cgroup %d: %w: %w", cgroupID, t.mode.Err, errdefs.ErrUnavailable)
	}
	o, ok := t.recs.oomKills(cgroupID)
	if !ok {
		return OOMs{}, nil
	}
	return OOMs{Kills: o.Kills, Last: t.clock.wall(o.At), Pid: int(o.Pid), Comm: comm(o.Comm[:])}, nil
}
