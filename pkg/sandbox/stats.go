// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"path/filepath"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/cgroup"
	"github.com/embedcri/embedcri/internal/failpoint"
	"github.com/embedcri/embedcri/pkg/spec"
	"github.com/embedcri/embedcri/pkg/stats"
	"github.com/embedcri/embedcri/pkg/task"
)

// ContainerStats is what a container uses.
type ContainerStats struct {
	Cgroup string // path below the root of its hierarchy
	*stats.Sample
}

// PodStats is what a pod uses as a whole. The cgroup of a pod is the one that its creator has made for it and named as the parent of
// its containers; a pod whose parent is not its own (crictl's, which names none) has no numbers of its own, and Containers are all
// there is.
type PodStats struct {
	Cgroup     string        // empty: none of its own
	Sample     *stats.Sample // nil: nothing is known. Without HasCgroup: only the network
	Containers map[string]ContainerStats
	Init       bool // the pod's own init runs, one process more
}

// collectorOptions are what the manager's collector works with.
func collectorOptions(images Images) stats.Options {
	return stats.Options{Layer: func(ctx context.Context, id string) (stats.Layer, error) {
		u, err := images.RootfsUsage(ctx, id)
		return stats.Layer{Bytes: u.Bytes, Inodes: u.Inodes, At: u.At}, err
	}}
}

// ContainerStats returns what the containers with these ids use: of those that run, with a Sample; of the others that exist, at
// most the writable layer. It waits for no operation.
func (m *Manager) ContainerStats(ids []string) map[string]ContainerStats {
	cs := make([]*Container, 0, len(ids))
	m.mu.Lock()
	for _, id := range ids {
		if c := m.containers[id]; c != nil {
			cs = append(cs, c)
		}
	}
	m.mu.Unlock()
	var live []*Container
	var targets []stats.Target
	out := make(map[string]ContainerStats, len(cs))
	for _, c := range cs {
		if c.live() {
			live, targets = append(live, c), append(targets, c.target())
			continue
		}
		cs := ContainerStats{Cgroup: c.cgroupPath()}
		if u, err := m.o.Images.RootfsUsage(m.base, c.meta.ID); err == nil {
			cs.Sample = &stats.Sample{Layer: &stats.Layer{Bytes: u.Bytes, Inodes: u.Inodes, At: u.At}}
		}
		out[c.meta.ID] = cs
	}
	for i, s := range m.stats.Get(targets) {
		out[live[i].meta.ID] = ContainerStats{Cgroup: live[i].cgroupPath(), Sample: s}
	}
	return out
}

// PodStats returns what the pods with these ids use, and each of their running containers. It waits for no operation.
func (m *Manager) PodStats(ids []string) map[string]PodStats {
	m.mu.Lock()
	owners := map[string]int{}
	for _, p := range m.pods {
		owners[p.Config().GetLinux().GetCgroupParent()]++
	}
	ps := make([]*Pod, 0, len(ids))
	for _, id := range ids {
		if p := m.pods[id]; p != nil {
			ps = append(ps, p)
		}
	}
	m.mu.Unlock()

	var targets []stats.Target
	out := make(map[string]PodStats, len(ps))
	members := make([][]*Container, len(ps))
	for i, p := range ps {
		own := PodStats{Containers: map[string]ContainerStats{}, Init: p.initRuns()}
		if parent := p.Config().GetLinux().GetCgroupParent(); parent != "" && owners[parent] == 1 {
			own.Cgroup = p.cgroupPath()
		}
		out[p.meta.ID] = own
		targets = append(targets, stats.Target{ID: p.meta.ID, Cgroup: own.Cgroup, NetNS: p.state.Load().Namespaces.Net})
		for _, c := range p.Containers() {
			if c.live() {
				members[i] = append(members[i], c)
				targets = append(targets, c.target())
			}
		}
	}
	samples := m.stats.Get(targets)
	for i, p := range ps {
		own := out[p.meta.ID]
		own.Sample, samples = samples[0], samples[1:]
		for _, c := range members[i] {
			own.Containers[c.meta.ID] = ContainerStats{Cgroup: c.cgroupPath(), Sample: samples[0]}
			samples = samples[1:]
		}
		out[p.meta.ID] = own
	}
	return out
}

// live tells whether the container has a process to measure.
func (c *Container) live() bool {
	switch c.task.Status().State {
	case task.Created, task.Starting, task.Running:
		return true
	}
	return false
}

// target is what there is to measure of a container.
func (c *Container) target() stats.Target {
	return stats.Target{ID: c.meta.ID, Cgroup: c.cgroupPath(), Pid: c.task.Status().Pid, Layer: true}
}

func (c *Container) cgroupPath() string {
	if cg := c.task.Cgroup(); cg != nil {
		return cg.Path()
	}
	return ""
}

// cgroupPath is the cgroup in which those of the pod's containers are.
func (p *Pod) cgroupPath() string {
	oci, err := spec.CgroupsPath(p.cgroupParent(), p.meta.ID, p.m.o.Systemd)
	if err != nil {
		return ""
	}
	return filepath.Dir(cgroup.FromOCI(oci).Path())
}

func (p *Pod) initRuns() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.init != nil && p.init.Status().State == task.Running
}

// UpdateResources records what the kubelet has made of the pod's cgroup, which is the kubelet's to change. Either may be nil, and
// then stays.
func (p *Pod) UpdateResources(overhead, resources *runtimeapi.LinuxContainerResources) error {
	return p.noteStep(failpoint.PodResources, func(s *podState) {
		if overhead != nil {
			s.Overhead = &message[*runtimeapi.LinuxContainerResources]{overhead}
		}
		if resources != nil {
			s.Resources = &message[*runtimeapi.LinuxContainerResources]{resources}
		}
	})
}
