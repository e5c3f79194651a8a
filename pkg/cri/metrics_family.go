// SPDX-License-Identifier: Apache-2.0

package cri

import (
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

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
