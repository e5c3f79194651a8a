// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// source is an older map whose records have to be in the present one.
type source struct {
	m       *ebpf.Map
	convert func(key, value []byte) (proc, slot, error) // nil: same layout
}

// each calls f with all records, converted.
func (s source) each(f func(proc, slot) error) error {
	if s.convert == nil {
		var p proc
		var v slot
		it := s.m.Iterate()
		for it.Next(&p, &v) {
			if err := f(p, v); err != nil {
				return err
			}
		}
		return it.Err()
	}
	var k, v []byte
	it := s.m.Iterate()
	for it.Next(&k, &v) {
		p, sl, err := s.convert(k, v)
		if err != nil {
			return err
		}
		if err := f(p, sl); err != nil {
			return err
		}
	}
	return it.Err()
}

// migrate copies all records of the sources into to. The programs that write
// into the sources and those that write into to must both be attached; then no
// exit is missed:
//
//   - one before its record is read here is copied with it;
//   - one after its record is in to is written there by the new programs;
//   - one in between is in the source when the second pass comes by, which
//     begins only when every program run that started before has ended.
func migrate(to *ebpf.Map, from []source) error {
	if len(from) == 0 {
		return nil
	}
	for _, s := range from {
		err := s.each(func(p proc, v slot) error {
			if v.State == stateWriting {
				v.State = stateArmed // the second pass brings the rest
			}
			err := to.Update(&p, &v, ebpf.UpdateNoExist)
			switch {
			case errors.Is(err, unix.E2BIG):
				return fmt.Errorf("capacity %d is less than the records there are: %w", to.MaxEntries(), errdefs.ErrInvalidArgument)
			case errors.Is(err, ebpf.ErrKeyExist):
				return nil
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("move records: %w", err)
		}
	}
	if err := quiesce(); err != nil {
		return fmt.Errorf("move records: %w", err)
	}
	for _, s := range from {
		err := s.each(func(p proc, v slot) error {
			if !v.exited() {
				return nil
			}
			var now slot
			if err := to.Lookup(&p, &now); err != nil {
				return err
			}
			if now.State != stateArmed {
				return nil // first record wins; they agree anyhow
			}
			return to.Update(&p, &v, ebpf.UpdateExist) // it is dead: nobody else writes
		})
		if err != nil {
			return fmt.Errorf("move records, second pass: %w", err)
		}
	}
	return nil
}

// quiesce returns when every BPF program run that began before the call has
// ended: they are RCU read-side critical sections, and membarrier(2) with
// MEMBARRIER_CMD_GLOBAL is synchronize_rcu().
func quiesce() error {
	const global = 1
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0); errno != 0 {
		return fmt.Errorf("membarrier: %w", errno)
	}
	return nil
}

// migrateOOMs adds up nothing: the newest count of a cgroup is kept. They are
// metrics; kills between the copy and the switch may be missed.
func migrateOOMs(to *ebpf.Map, from []*ebpf.Map) error {
	for _, m := range from {
		var id uint64
		var o rawOOM
		it := m.Iterate()
		for it.Next(&id, &o) {
			if err := to.Update(&id, &o, ebpf.UpdateNoExist); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
				return err
			}
		}
		if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
			return err
		}
	}
	return nil
}
