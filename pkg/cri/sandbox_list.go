// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ListPodSandbox lists the pods that match a filter, from a snapshot.
func (s *Server) ListPodSandbox(_ context.Context, r *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	return &runtimeapi.ListPodSandboxResponse{Items: s.listPods(r.GetFilter())}, nil
}

func (s *Server) listPods(f *runtimeapi.PodSandboxFilter) []*runtimeapi.PodSandbox {
	var out []*runtimeapi.PodSandbox
	for _, p := range s.pods.Pods() {
		st := p.Status()
		if st.Awaited {
			continue // it would look like one that has failed; one whose callers have given up is, and is to be stopped
		}
		if item := podItem(p, st); matchPod(f, item) {
			out = append(out, item)
		}
	}
	return out
}
