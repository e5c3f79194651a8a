// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// UpdateContainerResources changes a container's limits: all of what is asked for, or nothing.
func (s *Server) UpdateContainerResources(ctx context.Context, r *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	if r.GetLinux() == nil {
		return nil, invalid("linux", "must be set")
	}
	c, err := s.container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if err := c.Update(ctx, r.GetLinux()); err != nil {
		return nil, err
	}
	return &runtimeapi.UpdateContainerResourcesResponse{}, nil
}
