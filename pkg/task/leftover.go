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
// have started, and their exit records forgotten. It touches only what is provably an exec's: the members of its sub-cgroup, and
// records under keys that belong to no task. What an exec that had ended left in the background goes on, as after any exec.
func (m *Manager) EndLeftovers(tasks []*Task) {
	known := make(map[exitbpf.Key]bool, len(tasks))
	for _, t := range tasks {
		known[t.key] = true
		if t.cgroup == nil || t.Status().Exit != nil {
			continue
		}
		subs, err := t.cgroup.Subs(execGroupPrefix)
		if err != nil {
			t.log().Error(err, "look for execs of a previous daemon", "container", t.id)
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
	}
	lister, ok := m.o.Exits.(interface{ Keys() []exitbpf.Key })
	if !ok {
		return
	}
	for _, k := range lister.Keys() {
		if known[k] {
			continue
		}
		if err := m.o.Exits.Forget(k); err != nil {
			klog.Background().Error(err, "forget the exit record of an old exec", "key", k)
		}
	}
}

func (e tracerExits) Keys() []exitbpf.Key { return e.t.Keys() }
