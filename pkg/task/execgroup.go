// SPDX-License-Identifier: Apache-2.0

package task

import "github.com/embedcri/embedcri/internal/cgroup"

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

// remove removes the sub-cgroup. If background processes are still in it, it stays until the container's own goes.
func (g *execGroup) remove() {
	if g != nil {
		_ = g.cg.Remove()
	}
}
