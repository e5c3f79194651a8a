// SPDX-License-Identifier: Apache-2.0

package testnode

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/embedcri/embedcri/internal/cgroup"
	"github.com/embedcri/embedcri/internal/testenv"
)

// systemd says whether the node's cgroups are systemd's.
func (n *Node) systemd() bool { return testenv.CgroupDriver() == "systemd" }

// parentOf returns the cgroup that pods of a node without a parent of their own are put in, as a path below the root of the
// hierarchy: a path in the form of the CRI's cgroup_parent, for either driver.
func parentOf(name string) string {
	if testenv.CgroupDriver() == "systemd" {
		return "/embedcri.slice/embedcri-" + strings.ReplaceAll(name, "-", "_") + ".slice" // each dash would be a level
	}
	return "/embedcri-" + name
}

// PodCgroup returns a cgroup for a pod below the node's, as the kubelet gives it, and what removes it once the pod is gone.
func (n *Node) PodCgroup(name string) (path string, remove func()) {
	if n.systemd() {
		slice := strings.TrimSuffix(filepath.Base(n.Parent), ".slice") + "-" + strings.ReplaceAll(name, "-", "_") + ".slice"
		return filepath.Join(n.Parent, slice), func() { n.stopSlice(slice) }
	}
	path = filepath.Join(n.Parent, name)
	return path, func() { removeCgroup(path) }
}

// Cgroup returns the cgroup of a container whose pod has none of its own.
func (n *Node) Cgroup(container string) *cgroup.Cgroup {
	if n.systemd() {
		return cgroup.FromOCI(filepath.Base(n.Parent) + ":cri-embedcri:" + container)
	}
	return cgroup.FromOCI(filepath.Join(n.Parent, container))
}

// ExecCgroups lists the cgroups of commands that run in containers.
func (n *Node) ExecCgroups() []string {
	v1, _ := filepath.Glob("/sys/fs/cgroup/freezer" + n.Parent + "/*/exec-*")
	v2, _ := filepath.Glob("/sys/fs/cgroup" + n.Parent + "/*/exec-*")
	return append(v1, v2...)
}

// removeParents removes the empty cgroups that pods without a parent of their own were put in.
func (n *Node) removeParents() {
	if n.systemd() {
		n.stopSlice(filepath.Base(n.Parent))
		return
	}
	removeCgroup(n.Parent)
}

// removeCgroup removes an empty cgroup from every hierarchy.
func removeCgroup(path string) {
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + path)
	for _, d := range append(dirs, "/sys/fs/cgroup"+path) {
		_ = os.Remove(d)
	}
}

// stopSlice removes a slice, which systemd keeps although nothing is in it.
func (n *Node) stopSlice(slice string) {
	if out, err := exec.Command("systemctl", "stop", slice).CombinedOutput(); err != nil {
		n.T.Errorf("stop %s: %v: %s", slice, err, out)
	}
}
