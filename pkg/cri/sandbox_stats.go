// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PodSandboxStats reports what a pod and its running containers use.
func (s *Server) PodSandboxStats(_ context.Context, r *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	p, err := s.pod(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	used := s.pods.PodStats([]string{p.ID()})[p.ID()]
	return &runtimeapi.PodSandboxStatsResponse{Stats: podStats(p, used, s.opts.LayerDir)}, nil
}

// ListPodSandboxStats reports what the ready pods that match a filter use. Those that are not ready use nothing.
func (s *Server) ListPodSandboxStats(_ context.Context, r *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: s.listPodStats(r.GetFilter())}, nil
}

func (s *Server) listPodStats(f *runtimeapi.PodSandboxStatsFilter) []*runtimeapi.PodSandboxStats {
	ps, ids := s.readyPods(func(p pod) bool {
		return strings.HasPrefix(p.ID(), f.GetId()) && matchLabels(f.GetLabelSelector(), p.Config().GetLabels())
	})
	used := s.pods.PodStats(ids)
	var out []*runtimeapi.PodSandboxStats
	for _, p := range ps {
		if u, ok := used[p.ID()]; ok { // else it was removed meanwhile
			out = append(out, podStats(p, u, s.opts.LayerDir))
		}
	}
	return out
}

// readyPods returns the ready pods that match, and their ids.
func (s *Server) readyPods(match func(pod) bool) (ps []pod, ids []string) {
	for _, p := range s.pods.Pods() {
		if p.Status().Ready && match(p) {
			ps, ids = append(ps, p), append(ids, p.ID())
		}
	}
	return ps, ids
}
