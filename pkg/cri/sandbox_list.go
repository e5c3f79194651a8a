// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/pkg/sandbox"
)

// ListPodSandbox lists the pods that match a filter, from a snapshot.
func (s *Server) ListPodSandbox(_ context.Context, r *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	return &runtimeapi.ListPodSandboxResponse{Items: s.listPods(r.GetFilter())}, nil
}

func (s *Server) listPods(f *runtimeapi.PodSandboxFilter) []*runtimeapi.PodSandbox {
	var out []*runtimeapi.PodSandbox
	for _, p := range s.pods.Pods() {
		st := p.Status()
		if st.State == sandbox.Creating {
			continue // it would look like one that has failed, and the kubelet's garbage collection would take it
		}
		if item := podItem(p, st); matchPod(f, item) {
			out = append(out, item)
		}
	}
	return out
}
