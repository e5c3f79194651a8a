// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"sync"
)

// records is where exits are written down: BPF maps that outlive this process,
// or memory that does not (degraded mode). Safe for concurrent use.
type records interface {
	// reserve makes an armed slot. ErrFull; errExists if there is a slot for p.
	reserve(p proc, s slot) error
	// lookup returns a slot, errNoSlot if there is none.
	lookup(p proc) (slot, error)
	// put overwrites the slot of a process that is dead.
	put(p proc, s slot) error
	remove(p proc) error // absent is fine
	// recent returns the record of the exit of a process that was not watched.
	recent(p proc) (slot, bool)
	removeRecent(p proc) error
	each(func(proc, slot) error) error
	oomKills(cgroup uint64) (rawOOM, bool)
	counters() [statCount]uint64
	close() error
}

type recordError string

func (e recordError) Error() string { return string(e) }

const (
	errExists recordError = "process has a slot already"
	errNoSlot recordError = "process has no slot"
)

// memory keeps records when BPF cannot: same rules, gone with the process.
type memory struct {
	mu       sync.Mutex
	capacity int
	slots    map[proc]slot
}

func newMemory(capacity int) *memory {
	return &memory{capacity: capacity, slots: make(map[proc]slot)}
}

func (m *memory) reserve(p proc, s slot) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.slots[p]; ok {
		return errExists
	}
	if len(m.slots) >= m.capacity {
		return ErrFull
	}
	m.slots[p] = s
	return nil
}

func (m *memory) lookup(p proc) (slot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.slots[p]
	if !ok {
		return slot{}, errNoSlot
	}
	return s, nil
}

func (m *memory) put(p proc, s slot) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.slots[p] = s
	return nil
}

func (m *memory) remove(p proc) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.slots, p)
	return nil
}

func (m *memory) recent(proc) (slot, bool) { return slot{}, false }
func (m *memory) removeRecent(proc) error  { return nil }

func (m *memory) each(f func(proc, slot) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for p, s := range m.slots {
		if err := f(p, s); err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) oomKills(uint64) (rawOOM, bool) { return rawOOM{}, false }
func (m *memory) counters() [statCount]uint64    { return [statCount]uint64{} }
func (m *memory) close() error                   { return nil }
