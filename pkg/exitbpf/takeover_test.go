// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"encoding/binary"
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever stands in a pinned map, and whatever pid the daemon's own record goes with it: to take it over does not panic or hang,
// and tells an exit only where the slot holds one.
func FuzzTakeOver(f *testing.F) {
	seed := func(p proc, s slot, pid int32) {
		b, _ := binary.Append(nil, binary.NativeEndian, p)
		b, _ = binary.Append(b, binary.NativeEndian, s)
		f.Add(b, pid)
	}
	seed(proc{Pid: 4_000_000, Start: 5}, slot{Key: 7, State: stateExited, Code: 9, Kill: rawSender{At: 5, Signal: 9}}, 4_000_000)
	seed(proc{Pid: 4_000_000, Start: 5}, slot{Key: 7, State: stateArmed}, 4_000_000)
	seed(proc{Pid: 1, Start: 1 << 63}, slot{State: stateWriting}, 1)
	seed(proc{}, slot{State: 77, Code: -1, DiedAt: 1<<64 - 1}, -1)

	c, err := newClock()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte, pid int32) {
		var p proc
		var s slot
		n, err := binary.Decode(b, binary.NativeEndian, &p)
		if err != nil {
			return
		}
		if _, err := binary.Decode(b[n:], binary.NativeEndian, &s); err != nil {
			return
		}
		recs := newMemory(8)
		recs.slots[p] = s
		tr := &Tracer{
			clock: c, capacity: 8, recs: recs,
			watches: map[Key]*Watch{}, slots: map[Key]proc{Key(s.Key): p}, fds: map[int]*Watch{},
		}
		if tr.poll, err = newPoller(); err != nil {
			t.Fatal(err)
		}
		go tr.loop()
		defer func() {
			if err := tr.Close(); err != nil {
				t.Error(err)
			}
		}()
		w, err := tr.Watch(Key(s.Key), int(pid))
		if err != nil {
			return
		}
		select {
		case <-w.Done():
			if _, err := w.Exit(); err == nil && !s.exited() {
				t.Errorf("an exit of a slot without one: %+v", s)
			} else if err != nil && !errors.Is(err, ErrLost) {
				t.Error(err)
			}
		default:
			t.Errorf("process %d is taken for the one of %+v", pid, p)
		}
		if err := tr.Forget(w.Key()); err != nil || len(tr.Keys()) != 0 {
			t.Errorf("after Forget: %v, %v", tr.Keys(), err)
		}
	})
}

// A pin's name is one that we make, or none of ours.
func FuzzPinName(f *testing.F) {
	for _, name := range []string{"watched_1", "exit_12", "_1", "watched_", "watched_-1", "watched_01", "watched_+1", "a_b_3", "watched_9223372036854775807"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, file string) {
		if strings.ContainsRune(file, '/') {
			return // not a file's name
		}
		p, ok := parsePin("/d", file)
		if !ok {
			return
		}
		if p.path != filepath.Join("/d", file) || p.path != pinPath("/d", p.name, p.gen) || p.gen <= 0 {
			t.Errorf("%q: %+v", file, p)
		}
		if next := nextGen([]pinned{p}); next <= p.gen {
			t.Errorf("generation %d comes after %d", next, p.gen)
		}
	})
}
