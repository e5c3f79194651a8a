// SPDX-License-Identifier: Apache-2.0

package task

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/pkg/exitbpf"
)

// oomCounter is an Exits that counts the kernel's OOM kills in a memory cgroup.
type oomCounter interface {
	OOMKills(cgroupID uint64) (exitbpf.OOMs, error)
}

// TracerExits makes a tracer an Exits: it only widens the type of what Watch returns.
func TracerExits(t *exitbpf.Tracer) Exits { return tracerExits{t} }

type tracerExits struct{ t *exitbpf.Tracer }

func (e tracerExits) Watch(k exitbpf.Key, pid int) (Watch, error) {
	w, err := e.t.Watch(k, pid)
	if err != nil {
		return nil, err
	}
	return w, nil
}

func (e tracerExits) Forget(k exitbpf.Key) error { return e.t.Forget(k) }

func (e tracerExits) OOMKills(cgroupID uint64) (exitbpf.OOMs, error) { return e.t.OOMKills(cgroupID) }

var (
	_ Watch      = (*exitbpf.Watch)(nil)
	_ oomCounter = tracerExits{}
)

// OOMKills returns how many of the container's processes the kernel's OOM killer has ended so far. ok is false if nobody counts.
// It does not wait for anything.
func (t *Task) OOMKills() (kills uint64, ok bool) {
	if x := t.Status().Exit; x != nil { // its cgroup is gone or going
		return x.OOMKills, true
	}
	return t.countOOMKills(0)
}

// countOOMKills asks the tracer. The cgroup is known by its directory, and once that is gone, as id.
func (t *Task) countOOMKills(id uint64) (kills uint64, ok bool) {
	c, ok := t.m.o.Exits.(oomCounter)
	if !ok {
		return 0, false
	}
	if t.cgroup != nil {
		var st unix.Stat_t
		if err := unix.Stat(t.cgroup.Dir("memory"), &st); err == nil {
			id = st.Ino // the id of a cgroup is its directory's inode number, kernfs_node->id
		} else if !os.IsNotExist(err) {
			t.log().Error(err, "find memory cgroup", "container", t.id)
		}
	}
	if id == 0 {
		return 0, false
	}
	o, err := c.OOMKills(id)
	return o.Kills, err == nil
}
