// SPDX-License-Identifier: Apache-2.0

package cri

import (
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/pkg/sandbox"
	"github.com/embedcri/embedcri/pkg/stats"
)

// baseLabels are on every metric. They are those that the kubelet puts on cAdvisor's (containerPrometheusLabelsFunc in
// pkg/kubelet/server): id is the cgroup's path, name the container's id.
var baseLabels = []string{"container", "id", "image", "name", "namespace", "pod"}

// measured is what metrics are made from.
type measured struct {
	*stats.Sample
	startedAt int64 // seconds since 1970
	resources *runtimeapi.LinuxContainerResources
	fs        *stats.Filesystem // of the writable layer; nil if unknown
}

// family is one metric: its descriptor, and where its values come from. What is not known is left out rather than told as 0.
type family struct {
	name, help string
	kind       runtimeapi.MetricType
	labels     []string // beyond the base labels
	values     func(m *measured, emit func(value uint64, labels ...string))
}

func metricDescriptors() []*runtimeapi.MetricDescriptor {
	var out []*runtimeapi.MetricDescriptor
	for _, fs := range [][]family{cgroupFamilies, containerFamilies, networkFamilies} {
		for _, f := range fs {
			out = append(out, &runtimeapi.MetricDescriptor{
				Name: f.name, Help: f.help, LabelKeys: append(baseLabels[:len(baseLabels):len(baseLabels)], f.labels...),
			})
		}
	}
	return out
}

// metricArena makes metrics. On a node of 200 pods there are 20,000 of them in an answer: their messages are allocated in blocks,
// and those without labels of their own share one list.
type metricArena struct {
	metrics []runtimeapi.Metric
	values  []runtimeapi.UInt64Value
}

const arenaBlock = 512

func (a *metricArena) metric(f *family, at int64, labels []string, value uint64) *runtimeapi.Metric {
	if len(a.metrics) == 0 {
		a.metrics, a.values = make([]runtimeapi.Metric, arenaBlock), make([]runtimeapi.UInt64Value, arenaBlock)
	}
	m, v := &a.metrics[0], &a.values[0]
	a.metrics, a.values = a.metrics[1:], a.values[1:]
	v.Value = value
	m.Name, m.Timestamp, m.MetricType, m.LabelValues, m.Value = f.name, at, f.kind, labels, v
	return m
}

// make appends the metrics of families to out.
func (a *metricArena) make(out []*runtimeapi.Metric, families []family, base []string, m *measured) []*runtimeapi.Metric {
	at := m.At.UnixNano()
	for i := range families {
		f := &families[i]
		f.values(m, func(value uint64, labels ...string) {
			all := base
			if len(labels) > 0 {
				all = append(base[:len(base):len(base)], labels...)
			}
			out = append(out, a.metric(f, at, all, value))
		})
	}
	return out
}

// ofPod makes a pod's own metrics: of its cgroup, without a container's name, and of its network, under the name of the pod as a
// container would have it.
func (a *metricArena) ofPod(p pod, u sandbox.PodStats) []*runtimeapi.Metric {
	s := u.Sample
	if s == nil {
		return nil
	}
	md := p.Config().GetMetadata()
	m := &measured{Sample: s, startedAt: p.Status().CreatedAt.Unix()}
	out := make([]*runtimeapi.Metric, 0, len(cgroupFamilies)+4+len(networkFamilies)*len(s.Interfaces))
	id := u.Cgroup
	if id == "" {
		id = p.ID()
	}
	if s.HasCgroup {
		out = a.make(out, cgroupFamilies, []string{"", id, "", "", md.GetNamespace(), md.GetName()}, m)
	}
	return a.make(out, networkFamilies, []string{"", id, "", p.ID(), md.GetNamespace(), md.GetName()}, m)
}

func (a *metricArena) ofContainer(p pod, c container, u sandbox.ContainerStats, fs *stats.Filesystem) []*runtimeapi.Metric {
	md := p.Config().GetMetadata()
	base := []string{
		c.Config().GetMetadata().GetName(), u.Cgroup, imageSpec(c).GetImage(), c.ID(), md.GetNamespace(), md.GetName(),
	}
	m := &measured{Sample: u.Sample, startedAt: max(c.Status().StartedAt.Unix(), 0), resources: c.Resources().GetLinux(), fs: fs}
	out := make([]*runtimeapi.Metric, 0, len(cgroupFamilies)+len(containerFamilies)+4+8*len(u.Devices))
	out = a.make(out, cgroupFamilies, base, m)
	return a.make(out, containerFamilies, base, m)
}
