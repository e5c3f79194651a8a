// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"errors"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

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
		return nil, pullError(err)
	}
	return &runtimeapi.PullImageResponse{ImageRef: i.ID}, nil
}

// pullError puts the words before an error that the kubelet looks for to tell its users more (cri-api, pkg/errors: the reasons
// RegistryUnavailable and SignatureValidationFailed). It finds them only at the beginning, and its client strips the code from
// the text only if that is Unknown (cri-client, remote_image.go, PullImage).
func pullError(err error) error {
	var pe *image.PullError
	switch {
	case !errors.As(err, &pe):
		return err
	case pe.Denied:
		return status.Errorf(codes.Unknown, "%v: %v", crierrors.ErrSignatureValidationFailed, err)
	case errdefs.IsUnavailable(err):
		return status.Errorf(codes.Unknown, "%v: %v", crierrors.ErrRegistryUnavailable, err)
	}
	return err
}
