// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CreateContainer creates a container in a pod. The pod's configuration that the request repeats is not looked at: the pod's own
// is the one that cannot change.
func (s *Server) CreateContainer(ctx context.Context, r *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	if err := validContainerConfig(r.GetConfig()); err != nil {
		return nil, err
	}
	p, err := s.pod(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	c, err := p.CreateContainer(ctx, r.GetConfig())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.CreateContainerResponse{ContainerId: c.ID()}, nil
}
