// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The filters of List calls: fields are ANDed, and an unset one matches everything. An id also matches as a prefix, which is how
// people write ids; for the kubelet, which sends whole ones, that is the same.

func matchPod(f *runtimeapi.PodSandboxFilter, p *runtimeapi.PodSandbox) bool {
	return strings.HasPrefix(p.GetId(), f.GetId()) &&
		(f.GetState() == nil || f.GetState().GetState() == p.GetState()) &&
		matchLabels(f.GetLabelSelector(), p.GetLabels())
}

func matchContainer(f *runtimeapi.ContainerFilter, c *runtimeapi.Container) bool {
	return strings.HasPrefix(c.GetId(), f.GetId()) &&
		strings.HasPrefix(c.GetPodSandboxId(), f.GetPodSandboxId()) &&
		(f.GetState() == nil || f.GetState().GetState() == c.GetState()) &&
		matchLabels(f.GetLabelSelector(), c.GetLabels())
}

// matchLabels tells whether labels hold every pair of selector.
func matchLabels(selector, labels map[string]string) bool {
	for k, want := range selector {
		if got, ok := labels[k]; !ok || got != want {
			return false
		}
	}
	return true
}
