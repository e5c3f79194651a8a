// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/pkg/image"
)

// PullImage pulls an image. What it returns is the image's id, the same value in every message that names the image (api.proto,
// since 1.36).
func (s *Server) PullImage(ctx context.Context, r *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	if err := validImage("image", r.GetImage()); err != nil {
		return nil, err
	}
	i, err := s.images.Pull(ctx, image.PullRequest{
		Ref:     r.GetImage().GetImage(),
		Auth:    r.GetAuth(),
		Handler: r.GetImage().GetRuntimeHandler(),
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PullImageResponse{ImageRef: i.ID}, nil
}
