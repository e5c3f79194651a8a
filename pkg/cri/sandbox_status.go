// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PodSandboxStatus reports a pod and its containers. The containers' statuses and the time are what an evented PLEG goes by: the
// time is taken first, so that nothing that happens meanwhile can be older than the answer claims.
func (s *Server) PodSandboxStatus(_ context.Context, r *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	now := time.Now()
	p, err := s.pod(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	st := p.Status()
	resp := &runtimeapi.PodSandboxStatusResponse{
		Status: podStatus(p, st), Timestamp: now.UnixNano(), ContainersStatuses: containerStatuses(p),
	}
	if r.GetVerbose() {
		resp.Info, err = podInfo(p, st)
		if err != nil {
			return nil, err
		}
	}
	return resp, nil
}
