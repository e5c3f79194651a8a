// SPDX-License-Identifier: Apache-2.0

package task

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/cgroup"
	"github.com/embedcri/embedcri/internal/failpoint"
)

// execGroup is a sub-cgroup of the container for one exec, so that all its descendants can be found, also those that left its
// session. On cgroup v1 it lies in the freezer hierarchy alone, where a sub-cgroup costs nothing and changes no limit.
//
// While its process lives there is a marker beside the bundle's other files: what a daemon that was killed had under way is told
// by it from what a finished exec has left running on purpose.
type execGroup struct {
	cg     *cgroup.Cgroup
	arg    string
	marker string
}

const execGroupPrefix = "exec-"

// newExecGroup makes the sub-cgroup; nil where that is not possible (the container has taken its cgroup into its own hands, or the
// runtime does not know how).
func (t *Task) newExecGroup(id string) *execGroup {
	if t.cgroup == nil || !t.runtime.ExecCgroup() {
		return nil
	}
	name := execGroupPrefix + id
	marker := t.execMarker(name)
	if err := os.WriteFile(marker, nil, 0o600); err != nil {
		t.log().Error(err, "mark exec", "container", t.id)
		return nil
	}
	var sub *cgroup.Cgroup
	var arg string
	err := failpoint.ExecGroup.Do(func() (err error) {
		sub, arg, err = t.cgroup.Sub(name)
		return err
	})
	if err != nil {
		os.Remove(marker)
		t.log().V(2).Info("no sub-cgroup for exec", "container", t.id, "err", err)
		return nil
	}
	t.noteGroup(sub)
	return &execGroup{cg: sub, arg: arg, marker: marker}
}

// groupIDs are the ids of the sub-cgroups that the container's last execs ran in. The tracer names the sender of a signal by its
// cgroup, and the directory of a sub-cgroup may be gone by the time somebody asks whether that is one of the container's.
type groupIDs struct {
	last [16]uint64
	next int
}

// noteGroup remembers a sub-cgroup's id. With cgroup v1 the tracer goes by the memory hierarchy, in which execs have none.
func (t *Task) noteGroup(sub *cgroup.Cgroup) {
	var st unix.Stat_t
	if !cgroup.Unified() || unix.Stat(sub.Dir(""), &st) != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.groups.last[t.groups.next] = st.Ino // the id of a cgroup is its directory's inode number, kernfs_node->id
	t.groups.next = (t.groups.next + 1) % len(t.groups.last)
}

// ownKiller puts a killer that was an exec of the container where the container is, so that it is known as one of its own.
func (t *Task) ownKiller(x *Exit) {
	if x.Killer == nil || x.Killer.CgroupID == 0 {
		return
	}
	t.mu.Lock()
	own := slices.Contains(t.groups.last[:], x.Killer.CgroupID)
	t.mu.Unlock()
	if own {
		k := *x.Killer
		k.CgroupID = x.CgroupID
		x.Killer = &k
	}
}

func (t *Task) execMarker(name string) string { return filepath.Join(t.dir, name+".running") }

// ended says that the exec's process has ended; what it leaves behind is the container's from now on.
func (g *execGroup) ended() {
	if g != nil {
		os.Remove(g.marker)
	}
}

// args are the runtime's --cgroup arguments.
func (g *execGroup) args() []string {
	if g == nil {
		return nil
	}
	return []string{g.arg}
}

func (g *execGroup) kill() {
	if g != nil {
		_ = g.cg.Kill() // a member that does not go keeps the container's cgroup busy, and Delete reports that
	}
}

// removeTries bounds, with a millisecond between them, how long remove waits for a cgroup that the kernel has yet to empty.
const removeTries = 10

// remove removes the sub-cgroup and says if it is gone.
//
// A process that has been reaped may keep its cgroup busy for a moment more: seen on Linux 6.18 with about one exec in 1,000.
func (g *execGroup) remove() bool {
	if g == nil {
		return true
	}
	g.ended()
	for range removeTries {
		if g.tryRemove() {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

func (g *execGroup) tryRemove() bool { return !errors.Is(g.cg.Remove(), unix.EBUSY) }

// busyTries is how many cgroups of earlier execs one that ends tries to remove. It must be more than 1, that they become fewer.
const busyTries = 4

// dropGroup removes the sub-cgroup of an exec that is over. While there are processes in it, which the exec has left in the
// background, it stays, and is tried again whenever an exec of the container ends: those of a probe that each time leaves something
// behind for a while must not pile up until the container goes.
func (t *Task) dropGroup(g *execGroup) {
	gone := g.remove()
	t.mu.Lock()
	again := t.busyGroups[:min(busyTries, len(t.busyGroups))]
	t.busyGroups = t.busyGroups[len(again):]
	t.mu.Unlock()
	var left []*execGroup
	for _, old := range again {
		if !old.tryRemove() {
			left = append(left, old)
		}
	}
	if !gone {
		left = append(left, g)
	}
	t.mu.Lock()
	t.busyGroups = append(t.busyGroups, left...)
	t.mu.Unlock()
}
