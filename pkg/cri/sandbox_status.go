// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PodSandboxStatus reports a pod and its containers. It has no timestamp: a kubelet with the evented PLEG that finds one takes the
// containers' statuses from here and, as of 1.37, leaves out which of them are active (pkg/kubelet/kuberuntime, GetPodStatus), so
// that it starts a finished init container for ever. Without one it asks for each container, as the generic PLEG does; what makes
// the evented PLEG fast are the events.
func (s *Server) PodSandboxStatus(_ context.Context, r *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	p, err := s.pod(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	st := p.Status()
	resp := &runtimeapi.PodSandboxStatusResponse{
		Status: podStatus(p, st), ContainersStatuses: containerStatuses(p),
	}
	if r.GetVerbose() {
		resp.Info, err = podInfo(p, st)
		if err != nil {
			return nil, err
		}
	}
	return resp, nil
}
