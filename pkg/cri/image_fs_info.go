// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ImageFsInfo reports what images and containers' writable layers use of the disk. The kubelet's garbage collection goes by it. Both
// lists are filled even though both are on one file system: a kubelet that looks for split disks wants to see so.
func (s *Server) ImageFsInfo(ctx context.Context, _ *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	u, err := s.images.Usage(ctx)
	if err != nil {
		return nil, err
	}
	return fsInfo(u), nil
}
