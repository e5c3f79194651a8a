// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"errors"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// toStatus gives an error its gRPC code by its errdefs class: the one place where the two meet. The classes are those of
// errdefs/pkg/errgrpc.ToGRPC; we do not call that because it also packs the error's Go types into the answer, which no CRI client
// reads and which would put our internals on the wire.
//
// An error that comes from gRPC already (the streaming module makes some) keeps its code. One without a class is Unknown, which
// is what the kubelet treats as "try again".
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	var coded interface{ GRPCStatus() *status.Status }
	if errors.As(err, &coded) {
		if coded == any(err) {
			return err // as it is: its text must not begin with "rpc error:"
		}
		return status.Error(coded.GRPCStatus().Code(), err.Error())
	}
	return status.Error(codeOf(err), err.Error())
}

// codeOf returns the code for an error's class. Where an error has several (errors.Join of a failure and of what went wrong in its
// rollback), the first in depth wins, which is the failure.
func codeOf(err error) codes.Code {
	switch errdefs.Resolve(err) {
	case nil:
		return codes.OK
	case errdefs.ErrInvalidArgument:
		return codes.InvalidArgument
	case errdefs.ErrNotFound:
		return codes.NotFound
	case errdefs.ErrAlreadyExists:
		return codes.AlreadyExists
	case errdefs.ErrPermissionDenied:
		return codes.PermissionDenied
	case errdefs.ErrResourceExhausted:
		return codes.ResourceExhausted
	case errdefs.ErrFailedPrecondition, errdefs.ErrConflict, errdefs.ErrNotModified:
		return codes.FailedPrecondition
	case errdefs.ErrAborted:
		return codes.Aborted
	case errdefs.ErrOutOfRange:
		return codes.OutOfRange
	case errdefs.ErrNotImplemented:
		return codes.Unimplemented
	case errdefs.ErrInternal:
		return codes.Internal
	case errdefs.ErrUnavailable:
		return codes.Unavailable
	case errdefs.ErrDataLoss:
		return codes.DataLoss
	case errdefs.ErrUnauthenticated:
		return codes.Unauthenticated
	case context.DeadlineExceeded:
		// The kubelet takes this code, and no other, for "the command timed out" (cri-client, ExecSync).
		return codes.DeadlineExceeded
	case context.Canceled:
		return codes.Canceled
	default:
		return codes.Unknown
	}
}

// absentIsFine is for the calls of which api.proto says that they must not fail when the thing is gone already.
func absentIsFine(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}
