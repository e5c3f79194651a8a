// SPDX-License-Identifier: Apache-2.0

package cri

import (
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/pkg/sandbox"
)

// podState is the whole of a pod's state machine that the CRI sees.
func podState(st sandbox.PodStatus) runtimeapi.PodSandboxState {
	if st.Ready {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

// podItem is a pod in a list. Its maps and messages are the pod's own, which nobody changes.
func podItem(p pod, st sandbox.PodStatus) *runtimeapi.PodSandbox {
	c := p.Config()
	return &runtimeapi.PodSandbox{
		Id:             p.ID(),
		Metadata:       c.GetMetadata(),
		State:          podState(st),
		CreatedAt:      nanoseconds(st.CreatedAt),
		Labels:         c.GetLabels(),
		Annotations:    c.GetAnnotations(),
		RuntimeHandler: p.Handler(),
	}
}

func podStatus(p pod, st sandbox.PodStatus) *runtimeapi.PodSandboxStatus {
	c := p.Config()
	return &runtimeapi.PodSandboxStatus{
		Id:        p.ID(),
		Metadata:  c.GetMetadata(),
		State:     podState(st),
		CreatedAt: nanoseconds(st.CreatedAt),
		Network:   podNetwork(st.IPs),
		Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{
			Options: c.GetLinux().GetSecurityContext().GetNamespaceOptions(),
		}},
		Labels:         c.GetLabels(),
		Annotations:    c.GetAnnotations(),
		RuntimeHandler: p.Handler(),
	}
}

// podNetwork has the first address apart from the others, as the CRI wants it. A pod on the host's network has none of its own; the
// kubelet then takes the node's.
func podNetwork(ips []string) *runtimeapi.PodSandboxNetworkStatus {
	n := &runtimeapi.PodSandboxNetworkStatus{}
	for i, ip := range ips {
		if i == 0 {
			n.Ip = ip
			continue
		}
		n.AdditionalIps = append(n.AdditionalIps, &runtimeapi.PodIP{Ip: ip})
	}
	return n
}
