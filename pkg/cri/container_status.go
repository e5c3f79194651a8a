// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ContainerStatus reports a container. One that is still being created is not there yet.
func (s *Server) ContainerStatus(_ context.Context, r *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	c, err := s.container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	st := c.Status()
	if !listed(st.State) {
		return nil, fmt.Errorf("container %s is %s: %w", c.ID(), st.State, errdefs.ErrNotFound)
	}
	resp := &runtimeapi.ContainerStatusResponse{Status: containerStatus(c, st)}
	if r.GetVerbose() {
		resp.Info, err = containerInfo(c, st)
		if err != nil {
			return nil, err
		}
	}
	return resp, nil
}
