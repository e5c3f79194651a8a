// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/pkg/stats"
)

// ListMetricDescriptors tells the names and labels of all metrics. The kubelet asks once, at its start.
func (s *Server) ListMetricDescriptors(context.Context, *runtimeapi.ListMetricDescriptorsRequest) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	return &runtimeapi.ListMetricDescriptorsResponse{Descriptors: metricDescriptors()}, nil
}

// ListPodSandboxMetrics reports what the ready pods and their running containers use, for the kubelet's /metrics/cadvisor.
func (s *Server) ListPodSandboxMetrics(context.Context, *runtimeapi.ListPodSandboxMetricsRequest) (*runtimeapi.ListPodSandboxMetricsResponse, error) {
	r := &runtimeapi.ListPodSandboxMetricsResponse{}
	all, _ := s.encodePodMetrics()
	r.ProtoReflect().SetUnknown(all)
	return r, nil
}

// StreamPodSandboxMetrics is ListPodSandboxMetrics in pieces.
func (s *Server) StreamPodSandboxMetrics(_ *runtimeapi.StreamPodSandboxMetricsRequest, stream runtimeapi.RuntimeService_StreamPodSandboxMetricsServer) error {
	all, ends := s.encodePodMetrics()
	from := 0
	for batch := range slices.Chunk(ends, metricsBatch) {
		to := batch[len(batch)-1]
		r := &runtimeapi.StreamPodSandboxMetricsResponse{}
		r.ProtoReflect().SetUnknown(all[from:to])
		if err := stream.Send(r); err != nil {
			return err
		}
		from = to
	}
	return nil
}

// encodePodMetrics returns the encoded elements of an answer, and where each of them ends.
func (s *Server) encodePodMetrics() (all []byte, ends []int) {
	ps, ids := s.readyPods(func(pod) bool { return true })
	used := s.pods.PodStats(ids)
	var fs *stats.Filesystem
	if s.opts.LayerDir != "" {
		if f, err := stats.ReadFilesystem(s.opts.LayerDir); err == nil {
			fs = &f
		}
	}
	var e metricEncoder
	for i, p := range ps {
		u, ok := used[p.ID()]
		if !ok {
			continue // removed meanwhile
		}
		all = e.pod(all, p, u, fs)
		ends = append(ends, len(all))
		if i == 0 {
			all = slices.Grow(all, len(all)*len(ps)*5/4) // pods are much alike
		}
	}
	return all, ends
}
