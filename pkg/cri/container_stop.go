// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// StopContainer stops a container, by force after timeout seconds, at once if that is 0. Idempotent.
func (s *Server) StopContainer(ctx context.Context, r *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	grace, err := seconds("timeout", r.GetTimeout())
	if err != nil {
		return nil, err
	}
	c, err := s.container(r.GetContainerId())
	if err == nil {
		err = c.Stop(ctx, grace)
	}
	if err = absentIsFine(err); err != nil {
		return nil, err
	}
	return &runtimeapi.StopContainerResponse{}, nil
}
