// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/pkg/stats"
)

// ListMetricDescriptors tells the names and labels of all metrics. The kubelet asks once, at its start.
func (s *Server) ListMetricDescriptors(context.Context, *runtimeapi.ListMetricDescriptorsRequest) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	return &runtimeapi.ListMetricDescriptorsResponse{Descriptors: metricDescriptors()}, nil
}

// ListPodSandboxMetrics reports what the ready pods and their running containers use, for the kubelet's /metrics/cadvisor.
func (s *Server) ListPodSandboxMetrics(context.Context, *runtimeapi.ListPodSandboxMetricsRequest) (*runtimeapi.ListPodSandboxMetricsResponse, error) {
	return &runtimeapi.ListPodSandboxMetricsResponse{PodMetrics: s.listPodMetrics()}, nil
}

func (s *Server) listPodMetrics() []*runtimeapi.PodSandboxMetrics {
	ps, ids := s.readyPods(func(pod) bool { return true })
	used := s.pods.PodStats(ids)
	var a metricArena
	var fs *stats.Filesystem
	if s.opts.LayerDir != "" {
		if f, err := stats.ReadFilesystem(s.opts.LayerDir); err == nil {
			fs = &f
		}
	}
	out := make([]*runtimeapi.PodSandboxMetrics, 0, len(ps))
	for _, p := range ps {
		u, ok := used[p.ID()]
		if !ok {
			continue
		}
		m := &runtimeapi.PodSandboxMetrics{PodSandboxId: p.ID(), Metrics: a.ofPod(p, u)}
		for _, c := range p.Containers() {
			if cu, ok := u.Containers[c.ID()]; ok && cu.Sample != nil && cu.HasCgroup {
				m.ContainerMetrics = append(m.ContainerMetrics, &runtimeapi.ContainerMetrics{
					ContainerId: c.ID(), Metrics: a.ofContainer(p, c, cu, fs),
				})
			}
		}
		out = append(out, m)
	}
	return out
}
