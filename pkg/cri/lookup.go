// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// pod finds a pod by the id in a request: ErrInvalidArgument if that cannot be an id, ErrNotFound if it is nobody's.
func (s *Server) pod(id string) (pod, error) {
	if err := validID("pod_sandbox_id", id); err != nil {
		return nil, err
	}
	if !isHex(id) {
		return nil, fmt.Errorf("pod %q: %w", id, errdefs.ErrNotFound)
	}
	return s.pods.Pod(id)
}

// container finds a container by the id in a request, with the errors of pod.
func (s *Server) container(id string) (container, error) {
	if err := validID("container_id", id); err != nil {
		return nil, err
	}
	if !isHex(id) {
		return nil, fmt.Errorf("container %q: %w", id, errdefs.ErrNotFound)
	}
	return s.pods.Container(id)
}
