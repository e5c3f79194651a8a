// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Status reports whether the runtime and its network are ready; the kubelet calls it every few seconds and makes the node NotReady
// by it. It reads what the layers below last saw and waits for nothing.
func (s *Server) Status(_ context.Context, r *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	c := s.pods.Conditions()
	resp := &runtimeapi.StatusResponse{
		Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
			{Type: runtimeapi.RuntimeReady, Status: c.RuntimeReady, Reason: c.RuntimeReason, Message: text(c.RuntimeMessage)},
			{Type: runtimeapi.NetworkReady, Status: c.NetworkReady, Reason: c.NetworkReason, Message: text(c.NetworkMessage)},
		}},
		RuntimeHandlers: s.runtimeHandlers(),
		Features:        s.opts.Features,
	}
	if r.GetVerbose() {
		info, err := s.statusInfo()
		if err != nil {
			return nil, err
		}
		resp.Info = info
	}
	return resp, nil
}

// runtimeHandlers lists the handlers, the first of which is the default. That one is also listed under the empty name: a pod without
// a runtime class asks for it by that, and the kubelet looks up its features by that.
func (s *Server) runtimeHandlers() []*runtimeapi.RuntimeHandler {
	var out []*runtimeapi.RuntimeHandler
	for i, h := range s.pods.Handlers() {
		f := &runtimeapi.RuntimeHandlerFeatures{
			RecursiveReadOnlyMounts: h.Features.RecursiveReadOnlyMounts,
			UserNamespaces:          h.Features.UserNamespaces,
		}
		if i == 0 {
			out = append(out, &runtimeapi.RuntimeHandler{Features: f})
		}
		out = append(out, &runtimeapi.RuntimeHandler{Name: h.Name, Features: f})
	}
	return out
}

// statusInfo is what a verbose Status adds. crictl prints each key beside the status.
func (s *Server) statusInfo() (map[string]string, error) {
	all := map[string]any{
		"version":   map[string]string{"name": RuntimeName, "version": s.opts.Version},
		"streaming": map[string]string{"url": s.StreamingURL()},
		"calls":     map[string]any{"bounds": LatencyBounds(), "latencies": s.Latencies()},
	}
	if s.opts.Info != nil {
		for k, v := range s.opts.Info() {
			all[k] = v
		}
	}
	return jsonValues(all)
}
