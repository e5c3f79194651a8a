// SPDX-License-Identifier: Apache-2.0

package task

import (
	"fmt"
	"slices"
	"testing"

	"github.com/embedcri/embedcri/pkg/exitbpf"
	"github.com/embedcri/embedcri/pkg/ioattach"
)

// fakeExits has records and forgets them.
type fakeExits struct {
	Exits
	keys []exitbpf.Key
}

func (f *fakeExits) Keys() []exitbpf.Key { return slices.Clone(f.keys) }

func (f *fakeExits) Forget(k exitbpf.Key) error {
	f.keys = slices.DeleteFunc(f.keys, func(o exitbpf.Key) bool { return o == k })
	return nil
}

// TestReconcile has exit records of a container, of one that is being made, of a running exec, of an exec that is about to be known,
// and one of nobody. Only the last is forgotten, and only the second time.
func TestReconcile(t *testing.T) {
	exits := &fakeExits{}
	m := &Manager{o: Options{Exits: exits, Streams: &ioattach.Hub{}}}
	id := func(n int) string { return fmt.Sprintf("%016x%048d", n, n) }
	running := &Task{id: id(1), key: 1, execs: map[string]*Exec{"a": {key: 3}}}
	onRecord := func() ([]string, error) { return []string{id(1), id(2), "no id"}, nil }
	for i, want := range [][]exitbpf.Key{{1, 2, 3, 4, 5}, {1, 2, 3, 4}, {1, 2, 3, 4}} {
		if i == 0 {
			exits.keys = []exitbpf.Key{1, 2, 3, 4, 5}
		}
		if err := m.Reconcile([]*Task{running}, onRecord); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			running.execs["b"] = &Exec{key: 4}
		}
		if !slices.Equal(exits.keys, want) {
			t.Errorf("after call %d: %v, want %v", i+1, exits.keys, want)
		}
	}
	exits.keys = append(exits.keys, 6)
	failed := func() ([]string, error) { return nil, fmt.Errorf("no disk") }
	for range 3 {
		if err := m.Reconcile(nil, failed); err == nil || len(exits.keys) != 5 {
			t.Errorf("without records: %v, left %v", err, exits.keys)
		}
	}
}
