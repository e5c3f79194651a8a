// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// RuntimeConfig tells the kubelet which cgroup driver to use. It asks once, at its start, and expects the answer to hold as long
// as the node runs (api.proto), so this comes from the configuration and is never probed.
func (s *Server) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	return &runtimeapi.RuntimeConfigResponse{
		Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: s.driver},
	}, nil
}

// UpdateRuntimeConfig takes the node's pod CIDRs, for a network whose configuration is a template of ours. The kubelet calls it on
// each change, with an empty value at first, which is no news.
func (s *Server) UpdateRuntimeConfig(ctx context.Context, r *runtimeapi.UpdateRuntimeConfigRequest) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
	return &runtimeapi.UpdateRuntimeConfigResponse{}, s.pods.UpdatePodCIDR(ctx, r.GetRuntimeConfig().GetNetworkConfig().GetPodCidr())
}
