// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// RemoveImage removes an image with all its names. Idempotent.
func (s *Server) RemoveImage(ctx context.Context, r *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	if err := validImage("image", r.GetImage()); err != nil {
		return nil, err
	}
	if err := absentIsFine(s.images.Remove(ctx, r.GetImage().GetImage())); err != nil {
		return nil, err
	}
	return &runtimeapi.RemoveImageResponse{}, nil
}
