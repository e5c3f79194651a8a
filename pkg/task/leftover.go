// SPDX-License-Identifier: Apache-2.0

package task

import (
	"errors"
	"os"
	"path/filepath"

	"k8s.io/klog/v2"

	"github.com/embedcri/embedcri/pkg/exitbpf"
)

// EndLeftovers ends the execs of previous daemons, once, after all tasks have been loaded and before there is a new one. Their
// clients went with the daemon that served them, and nobody can tell anybody how they end; so they are killed, with all that they
// have started, and their streams, files and exit records removed. It touches only what is provably an exec's: the members of its
// sub-cgroup, what bears its name beside the bundle, and records under keys that belong to no task. What an exec that had ended left
// in the background goes on, as after any exec.
func (m *Manager) EndLeftovers(tasks []*Task) {
	known := make(map[exitbpf.Key]bool, len(tasks))
	for _, t := range tasks {
		known[t.key] = true
		err := t.endExecGroups()
		if err == nil { // else the markers still say which of them have not ended
			err = t.removeExecFiles()
		}
		if err != nil {
			t.log().Error(err, "end execs of a previous daemon", "container", t.id)
		}
	}
	for _, k := range m.exitKeys() {
		if !known[k] {
			m.forget(k)
		}
	}
}

// endExecGroups kills what is in the sub-cgroups of execs that had not ended.
func (t *Task) endExecGroups() error {
	if t.cgroup == nil || t.Status().Exit != nil {
		return nil
	}
	subs, err := t.cgroup.Subs(execGroupPrefix)
	if err != nil {
		return err
	}
	for _, sub := range subs {
		g := &execGroup{cg: sub, marker: t.execMarker(filepath.Base(sub.Path()))}
		if _, err := os.Stat(g.marker); errors.Is(err, os.ErrNotExist) {
			t.mu.Lock()
			t.busyGroups = append(t.busyGroups, g) // it had ended; what it left running in the background stays
			t.mu.Unlock()
			continue
		}
		t.log().Info("an exec has outlived the daemon that served it; killed", "container", t.id, "cgroup", sub.Path())
		g.kill()
		t.dropGroup(g)
	}
	return nil
}

// removeExecFiles removes what execs have beside the bundle: streams, markers, what the runtime is told to write. No name of the
// bundle's own begins as theirs do.
func (t *Task) removeExecFiles() error {
	left, err := filepath.Glob(filepath.Join(t.dir, execGroupPrefix+"*")) // only a bad pattern is an error
	for _, path := range left {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
}

// Reconcile drops what is held for nobody outside of the file system: descriptors in the keeper whose streams are gone, and exit
// records of neither a container that onRecord lists, by its id, nor an exec of tasks. It takes a bug to leave any. A record goes
// when two calls in a row find it to be nobody's, as an exec is known a moment after it is watched. Calls take turns.
func (m *Manager) Reconcile(tasks []*Task, onRecord func() ([]string, error)) error {
	m.o.Streams.DropStale()
	keys := m.exitKeys() // before the records are listed: a record is older than the process it is for
	ids, err := onRecord()
	if err != nil {
		return err
	}
	known := map[exitbpf.Key]bool{}
	for _, id := range ids {
		if k, err := exitbpf.KeyOf(id); err == nil {
			known[k] = true
		}
	}
	for _, t := range tasks {
		t.mu.Lock()
		for _, e := range t.execs {
			known[e.key] = true
		}
		t.mu.Unlock()
	}
	suspects := map[exitbpf.Key]bool{}
	for _, k := range keys {
		switch {
		case known[k]:
		case m.suspects[k]:
			klog.Background().Info("exit record belongs to nothing; removed", "key", k)
			m.forget(k)
		default:
			suspects[k] = true
		}
	}
	m.suspects = suspects
	return nil
}

func (m *Manager) exitKeys() []exitbpf.Key {
	if lister, ok := m.o.Exits.(interface{ Keys() []exitbpf.Key }); ok {
		return lister.Keys()
	}
	return nil
}

func (m *Manager) forget(k exitbpf.Key) {
	if err := m.o.Exits.Forget(k); err != nil {
		klog.Background().Error(err, "forget an exit record of nothing", "key", k)
	}
}

func (e tracerExits) Keys() []exitbpf.Key { return e.t.Keys() }
