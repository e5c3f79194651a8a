// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ImageStatus reports an image. One that is not there is an answer without an image, not an error.
func (s *Server) ImageStatus(_ context.Context, r *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	if err := validImage("image", r.GetImage()); err != nil {
		return nil, err
	}
	i, err := s.images.Image(r.GetImage().GetImage())
	if errdefs.IsNotFound(err) {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	resp := &runtimeapi.ImageStatusResponse{Image: imageItem(i)}
	if r.GetVerbose() {
		resp.Info, err = imageInfo(i)
		if err != nil {
			return nil, err
		}
	}
	return resp, nil
}
