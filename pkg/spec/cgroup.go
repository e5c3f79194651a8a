// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"path"
	"slices"
	"strings"
)

// scopePrefix is the first part of a container's scope unit under systemd: cri-embedcri-<id>.scope. The kubelet's tools take
// what follows the last dash for the id.
const scopePrefix = "cri-embedcri"

// CgroupsPath returns linux.cgroupsPath of a container, in the form its cgroup driver wants: below a path for cgroupfs
// (/kubepods/burstable/pod1/<id>), or slice:prefix:name for systemd (kubepods-burstable-pod1.slice:cri-embedcri:<id>). Parent is
// the pod's linux.cgroup_parent, always in the syntax of paths; a parent that belongs to the other driver means that kubelet
// and runtime disagree, and is refused before it makes cgroups that nobody accounts for.
func CgroupsPath(parent, id string, systemd bool) (string, error) {
	const field = "linux.cgroup_parent"
	if strings.IndexByte(parent, 0) >= 0 || slices.Contains(strings.Split(parent, "/"), "..") {
		return "", invalid(field, "%q leaves its place", parent)
	}
	slice := strings.HasSuffix(parent, ".slice")
	if !systemd {
		if slice {
			return "", invalid(field, "%q is a systemd slice, but the cgroup driver is cgroupfs", parent)
		}
		return path.Join("/", parent, id), nil
	}
	if !slice {
		return "", invalid(field, "%q is not a systemd slice, but the cgroup driver is systemd", parent)
	}
	return strings.Join([]string{path.Base(parent), scopePrefix, id}, ":"), nil
}
