// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ListContainers lists the containers that match a filter, from a snapshot. The kubelet relists every second, and a relist that
// hangs makes the node NotReady: nothing here may wait.
func (s *Server) ListContainers(_ context.Context, r *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	return &runtimeapi.ListContainersResponse{Containers: s.listContainers(r.GetFilter())}, nil
}

func (s *Server) listContainers(f *runtimeapi.ContainerFilter) []*runtimeapi.Container {
	var out []*runtimeapi.Container
	for _, c := range s.pods.Containers() {
		st := c.Status()
		if !listed(st.State) {
			continue
		}
		if item := containerItem(c, st); matchContainer(f, item) {
			out = append(out, item)
		}
	}
	return out
}
