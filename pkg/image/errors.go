// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
)

// PullError is why a pull failed. Its class, for [errdefs], says what kind of failure it was: NotFound
// (no such repository, tag or platform), Unauthenticated and PermissionDenied (credentials), Unavailable
// (a server does not answer, or not in time), ResourceExhausted (rate limit, or larger than allowed),
// DataLoss (a server sends other bytes than the digest promises), InvalidArgument and so on.
type PullError struct {
	// Reference is the completed name that was to be pulled, Registry the host in it.
	Reference, Registry string
	// Denied is set if not the registry but the node's image policy ([Options.VerifierDir]) said no.
	Denied bool

	err error
}

// Error names the reference, with its registry, and what each server that was asked had to say.
func (e *PullError) Error() string { return fmt.Sprintf("pull %s: %v", e.Reference, e.err) }

// Unwrap returns the cause, which has the error's class.
func (e *PullError) Unwrap() error { return e.err }

// errStalled is the cause of a context that ended because nothing moved for [Options.ProgressTimeout].
var errStalled = fmt.Errorf("no progress: %w", errdefs.ErrUnavailable)

// failures collects what the servers of a pull said, one after the other. Its class is that of the
// last one: mirrors are shortcuts, the registry itself comes last and decides.
type failures struct {
	hosts []string
	errs  []error
}

func (f *failures) add(host string, err error) {
	f.hosts = append(f.hosts, host)
	f.errs = append(f.errs, err)
}

// error returns nil if nothing failed.
func (f *failures) error() error {
	if len(f.errs) == 0 {
		return nil
	}
	parts := make([]string, len(f.errs))
	for i, err := range f.errs {
		parts[i] = "from " + f.hosts[i] + ": " + err.Error()
	}
	return classified{text: strings.Join(parts, "; "), class: classOf(f.errs[len(f.errs)-1])}
}

// classified is an error with exactly one class, whatever the errors in its text would match.
type classified struct {
	text  string
	class error
}

func (e classified) Error() string { return e.text }
func (e classified) Unwrap() error { return e.class }

// classOf finds the errdefs class of what containerd's remotes return, which is mostly a status code or
// a network error deep inside.
func classOf(err error) error {
	if err == nil {
		return nil
	}
	for _, class := range []error{
		errdefs.ErrNotFound, errdefs.ErrUnauthenticated, errdefs.ErrPermissionDenied, errdefs.ErrDataLoss,
		errdefs.ErrUnavailable, errdefs.ErrResourceExhausted, errdefs.ErrInvalidArgument, errdefs.ErrNotImplemented,
		context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, class) {
			return class
		}
	}
	if errors.Is(err, docker.ErrInvalidAuthorization) {
		return errdefs.ErrUnauthenticated
	}
	var status remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &status) {
		return classOfStatus(status.StatusCode)
	}
	var netErr net.Error
	var urlErr *url.Error
	if errors.As(err, &netErr) || errors.As(err, &urlErr) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return errdefs.ErrUnavailable
	}
	if errors.Is(err, errdefs.ErrFailedPrecondition) {
		return errdefs.ErrDataLoss // containerd's class for a wrong digest or size
	}
	return errdefs.ErrUnknown
}

func classOfStatus(code int) error {
	switch {
	case code == http.StatusUnauthorized:
		return errdefs.ErrUnauthenticated
	case code == http.StatusForbidden:
		return errdefs.ErrPermissionDenied
	case code == http.StatusNotFound:
		return errdefs.ErrNotFound
	case code == http.StatusTooManyRequests:
		return errdefs.ErrResourceExhausted
	case code >= 500:
		return errdefs.ErrUnavailable
	}
	return errdefs.ErrUnknown
}
