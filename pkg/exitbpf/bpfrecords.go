// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// bpfRecords keeps records in the pinned maps.
type bpfRecords struct {
	watched, recents, ooms, stats *ebpf.Map
	filter                        *filter
	lock                          *os.File
}

func (b *bpfRecords) reserve(p proc, s slot) error {
	if err := b.filter.add(p); err != nil {
		return err
	}
	err := b.watched.Update(&p, &s, ebpf.UpdateNoExist)
	if err != nil {
		_ = b.filter.drop(p) // one bit too many is no harm
	}
	switch {
	case errors.Is(err, ebpf.ErrKeyExist):
		return errExists
	case errors.Is(err, unix.E2BIG):
		return ErrFull
	case err != nil:
		return fmt.Errorf("reserve slot: %w", err)
	}
	return nil
}

func (b *bpfRecords) lookup(p proc) (slot, error) {
	var s slot
	err := b.watched.Lookup(&p, &s)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return slot{}, errNoSlot
	}
	return s, err
}

func (b *bpfRecords) put(p proc, s slot) error { return b.watched.Update(&p, &s, ebpf.UpdateExist) }

func (b *bpfRecords) remove(p proc) error {
	if err := b.watched.Delete(&p); err != nil {
		return ignoreAbsent(err)
	}
	return b.filter.drop(p)
}

func (b *bpfRecords) recent(p proc) (slot, bool) {
	var s slot
	err := b.recents.Lookup(&p, &s)
	return s, err == nil && s.exited()
}

func (b *bpfRecords) removeRecent(p proc) error { return ignoreAbsent(b.recents.Delete(&p)) }

func (b *bpfRecords) each(f func(proc, slot) error) error { return source{m: b.watched}.each(f) }

func (b *bpfRecords) oomKills(cgroup uint64) (rawOOM, bool) {
	var o rawOOM
	err := b.ooms.Lookup(&cgroup, &o)
	return o, err == nil
}

func (b *bpfRecords) counters() (sum [statCount]uint64) {
	var perCPU []uint64
	for i := range sum {
		if err := b.stats.Lookup(uint32(i), &perCPU); err != nil {
			continue
		}
		for _, n := range perCPU {
			sum[i] += n
		}
	}
	return sum
}

func (b *bpfRecords) close() error {
	return errors.Join(b.watched.Close(), b.recents.Close(), b.ooms.Close(), b.stats.Close(), b.filter.m.Close(), b.lock.Close())
}

func ignoreAbsent(err error) error {
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}
