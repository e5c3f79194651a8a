// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/pkg/task"
)

// ContainerStats reports what a container uses. One that does not run has no more than its writable layer.
func (s *Server) ContainerStats(_ context.Context, r *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	c, err := s.container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	used := s.pods.ContainerStats([]string{c.ID()})[c.ID()]
	return &runtimeapi.ContainerStatsResponse{Stats: containerStats(c, used, s.opts.LayerDir)}, nil
}

// ListContainerStats reports what the running containers that match a filter use (api.proto: "all running containers").
func (s *Server) ListContainerStats(_ context.Context, r *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	return &runtimeapi.ListContainerStatsResponse{Stats: s.listContainerStats(r.GetFilter())}, nil
}

func (s *Server) listContainerStats(f *runtimeapi.ContainerStatsFilter) []*runtimeapi.ContainerStats {
	var cs []container
	var ids []string
	for _, c := range s.pods.Containers() {
		if c.Status().State == task.Running && strings.HasPrefix(c.ID(), f.GetId()) && strings.HasPrefix(c.PodID(), f.GetPodSandboxId()) &&
			matchLabels(f.GetLabelSelector(), c.Config().GetLabels()) {
			cs, ids = append(cs, c), append(ids, c.ID())
		}
	}
	used := s.pods.ContainerStats(ids)
	var out []*runtimeapi.ContainerStats
	for _, c := range cs {
		if u, ok := used[c.ID()]; ok { // else it was removed meanwhile
			out = append(out, containerStats(c, u, s.opts.LayerDir))
		}
	}
	return out
}
