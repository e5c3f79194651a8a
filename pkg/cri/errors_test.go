// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestToStatus(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want codes.Code
	}{
		{nil, codes.OK},
		{errdefs.ErrNotFound, codes.NotFound},
		{errdefs.ErrAlreadyExists, codes.AlreadyExists},
		{errdefs.ErrInvalidArgument, codes.InvalidArgument},
		{errdefs.ErrFailedPrecondition, codes.FailedPrecondition},
		{errdefs.ErrUnavailable, codes.Unavailable},
		{errdefs.ErrUnauthenticated, codes.Unauthenticated},
		{errdefs.ErrPermissionDenied, codes.PermissionDenied},
		{errdefs.ErrResourceExhausted, codes.ResourceExhausted},
		{errdefs.ErrInternal, codes.Internal},
		{errdefs.ErrNotImplemented, codes.Unimplemented},
		{errdefs.ErrAborted, codes.Aborted},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{context.Canceled, codes.Canceled},
		{errors.New("runc has no class"), codes.Unknown},
		{status.Error(codes.OutOfRange, "made elsewhere"), codes.OutOfRange},
		{errors.Join(errdefs.ErrNotFound, errdefs.ErrInternal), codes.NotFound}, // the failure, not its rollback
		{errors.Join(errors.New("no class"), errdefs.ErrUnavailable), codes.Unavailable},
	} {
		for _, err := range []error{tc.err, wrap(tc.err)} {
			got := toStatus(err)
			if status.Code(got) != tc.want {
				t.Errorf("%v: %v, want %v", err, status.Code(got), tc.want)
			}
			if err != nil && tc.want != codes.OutOfRange && status.Convert(got).Message() != err.Error() {
				t.Errorf("%v: message became %q", err, status.Convert(got).Message())
			}
		}
	}
}

func wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("start container 3f2a: %w", err)
}
