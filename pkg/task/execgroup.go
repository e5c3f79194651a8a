// SPDX-License-Identifier: Apache-2.0

package task

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/cgroup"
)

// execGroup is a sub-cgroup of the container for one exec, so that all its descendants can be found, also those that left its
// session. On cgroup v1 it lies in the freezer hierarchy alone, where a sub-cgroup costs nothing and changes no limit.
type execGroup struct {
	cg  *cgroup.Cgroup
	arg string
}

const execGroupPrefix = "exec-"

// newExecGroup makes the sub-cgroup; nil where that is not possible (the container has taken its cgroup into its own hands).
func (t *Task) newExecGroup(id string) *execGroup {
	if t.cgroup == nil {
		return nil
	}
	name := execGroupPrefix + id
	sub, arg, err := t.cgroup.Sub(name)
	if err != nil {
		t.log().V(2).Info("no sub-cgroup for exec", "container", t.id, "err", err)
		return nil
	}
	return &execGroup{cg: sub, arg: arg}
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
const removeTries = 50

// remove removes the sub-cgroup. If background processes are still in it, it stays until the container's own goes.
//
// A process leaves its cgroup, and the list of its members, a moment after its death can be seen (do_exit in kernel/exit.c:
// exit_notify comes before cgroup_exit), so that moment is waited for: of 1,000 execs about one met it.
func (g *execGroup) remove() {
	if g == nil {
		return
	}
	for range removeTries {
		if err := g.cg.Remove(); !errors.Is(err, unix.EBUSY) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}
