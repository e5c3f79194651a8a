// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
)

// filterBits is FILTER_BITS in exit.bpf.c.
const filterBits = 32768

// filter keeps the programs from looking up processes that cannot be watched:
// see the map of that name in exit.bpf.c. A bit too many costs time, a bit too
// few would cost an exit: it is set before there is a slot, and cleared only
// after the last one with it is gone.
type filter struct {
	m *ebpf.Map

	mu    sync.Mutex
	slots [filterBits]uint32 // with this bit
	words [filterBits / 64]uint64
}

func (f *filter) add(p proc) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	bit := p.Pid % filterBits
	if f.slots[bit] == 0 {
		if err := f.writeLocked(bit, f.words[bit/64]|1<<(bit%64)); err != nil {
			return err
		}
	}
	f.slots[bit]++
	return nil
}

func (f *filter) drop(p proc) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	bit := p.Pid % filterBits
	if f.slots[bit]--; f.slots[bit] > 0 {
		return nil
	}
	return f.writeLocked(bit, f.words[bit/64]&^(1<<(bit%64)))
}

// writeLocked replaces the word of a bit, at one stroke for whoever reads it.
func (f *filter) writeLocked(bit uint32, word uint64) error {
	if err := f.m.Update(bit/64, word, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("write filter: %w", err)
	}
	f.words[bit/64] = word
	return nil
}
