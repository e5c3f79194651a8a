// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"errors"
	"fmt"
	"path"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
)

// calls surrounds every call: it gives it an id and a logger, turns its error into a code and its panic into an error, measures
// it, and writes its one log line.
type calls struct {
	log     klog.Logger
	seq     atomic.Uint64
	latency *latencies
	closing context.Context // done when the server is about to end; may be nil
	rest    *rest           // may be nil
}

// quietVerbosity is the klog level of calls that change nothing; there are many of them every second.
const quietVerbosity = 4

func (c *calls) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	ctx, done := c.begin(ctx, info.FullMethod, req)
	defer func() { err = done(resp, err, recover()) }()
	return next(ctx, req)
}

func (c *calls) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	ctx, done := c.begin(ss.Context(), info.FullMethod, nil)
	defer func() { err = done(nil, err, recover()) }()
	return next(srv, streamWithContext{ss, ctx})
}

// streamWithContext is a stream whose handlers find the call's logger in its context.
type streamWithContext struct {
	grpc.ServerStream
	ctx context.Context
}

func (s streamWithContext) Context() context.Context { return s.ctx }

// begin starts a call and returns the function that ends it. That function takes what the handler returned, or the value it
// panicked with, and returns the error to send.
//
// A panic is caught here and nowhere else. The daemon is crash-only, but it is also the only process between the node's containers
// and their streams: one request that trips over a slip of ours must not take all of them along. Locks that the handler holds are
// released by its defers; background loops, which hold the node's truth, still crash.
func (c *calls) begin(ctx context.Context, fullMethod string, req any) (context.Context, func(resp any, err error, panicked any) error) {
	method := path.Base(fullMethod)
	start := time.Now()
	log := c.log.WithValues("call", c.seq.Add(1))
	return klog.NewContext(ctx, log), func(resp any, err error, panicked any) error {
		if panicked != nil {
			log.Error(nil, "Panic in a CRI call", "method", method, "panic", panicked, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic in %s: %v: %w", method, panicked, errdefs.ErrInternal)
		}
		if c.closing != nil && c.closing.Err() != nil && ctx.Err() == nil && errors.Is(err, context.Canceled) {
			err = fmt.Errorf("the daemon is stopping (%v): %w", err, errdefs.ErrUnavailable) // the client has not gone: it should try again
		}
		err = toStatus(err)
		took := time.Since(start)
		c.latency.observe(method, took, err != nil)
		if changes(method) {
			c.rest.disturbed()
		}
		write(log, method, took, err, append(idsOf(req), idsOf(resp)...))
		return err
	}
}

// write writes the call's line. A call that changes something is always told. One that only looks is told when it fails in a way
// that the caller does not ask for: NotFound is how the kubelet learns that something is gone, Canceled that it has left itself.
func write(log klog.Logger, method string, took time.Duration, err error, ids []any) {
	code := status.Code(err)
	kv := append([]any{"method", method}, ids...)
	kv = append(kv, "took", took.Round(time.Microsecond), "code", code)
	switch {
	case err == nil && changes(method):
		log.Info("CRI call", kv...)
	case err == nil:
		log.V(quietVerbosity).Info("CRI call", kv...)
	case code == codes.Internal || code == codes.Unknown || code == codes.DataLoss:
		log.Error(err, "CRI call", kv...)
	case !changes(method) && (code == codes.NotFound || code == codes.Canceled || code == codes.Unimplemented):
		log.V(quietVerbosity).Info("CRI call", append(kv, "err", status.Convert(err).Message())...)
	default:
		log.Info("CRI call", append(kv, "err", status.Convert(err).Message())...)
	}
}

// changes tells whether a call alters anything. ExecSync does not count: probes are the most frequent calls there are.
func changes(method string) bool {
	switch {
	case strings.HasPrefix(method, "List"), strings.HasPrefix(method, "Stream"), strings.HasSuffix(method, "Status"),
		strings.HasSuffix(method, "Stats"):
		return false
	}
	switch method {
	case "Status", "Version", "RuntimeConfig", "ImageFsInfo", "ExecSync", "GetContainerEvents":
		return false
	}
	return true
}

// idsOf picks from a request or an answer what a log line may show: ids and names, nothing else.
func idsOf(m any) []any {
	var kv []any
	add := func(key, value string) {
		if value != "" {
			kv = append(kv, key, value)
		}
	}
	if m, ok := m.(interface{ GetPodSandboxId() string }); ok {
		add("pod", m.GetPodSandboxId())
	}
	if m, ok := m.(interface{ GetContainerId() string }); ok {
		add("container", m.GetContainerId())
	}
	if m, ok := m.(interface{ GetImage() *runtimeapi.ImageSpec }); ok {
		add("image", m.GetImage().GetImage())
	}
	switch m := m.(type) {
	case *runtimeapi.RunPodSandboxRequest:
		if md := m.GetConfig().GetMetadata(); md != nil {
			add("name", md.GetNamespace()+"/"+md.GetName())
		}
	case *runtimeapi.CreateContainerRequest:
		add("name", m.GetConfig().GetMetadata().GetName())
	case *runtimeapi.PullImageResponse:
		add("imageID", m.GetImageRef())
	}
	return kv
}
