// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/containerd/errdefs"

	"github.com/embedcri/embedcri/pkg/image"
	"github.com/embedcri/embedcri/pkg/sandbox"
)

// RuntimeName is what Version calls this runtime; the kubelet puts it before container ids ("embedcri://<id>").
const RuntimeName = "embedcri"

// maxMessageSize is the kubelet's own limit for what it receives (cri-client, utils.go). gRPC's default of 4 MiB is too small for
// what ExecSync may return and for the lists of a large node.
const maxMessageSize = 16 << 20

// Options is what a Server is made of.
type Options struct {
	Pods   *sandbox.Manager
	Images *image.Store

	// Version is the daemon's semantic version, without a leading v. Version reports it.
	Version string
	// CgroupDriver is "cgroupfs" or "systemd"; the kubelet asks for it once and goes by it. Empty is cgroupfs.
	CgroupDriver string
	// Features is what Status says this implementation can do, apart from its handlers. Nil: what pkg/spec can do, supplemental
	// groups policy, mount options, and user namespaces on the host's network.
	Features *runtimeapi.RuntimeFeatures
	// Info adds to what Status returns when asked to be verbose; the values must be fit for json.Marshal and for anyone who may
	// open the socket to see. May be nil.
	Info func() map[string]any
	// LayerDir is a directory on the file system that containers write to, as ImageFsInfo names it. Stats and metrics tell that
	// file system's size; empty: they do not.
	LayerDir string

	Streaming StreamingOptions

	// StopGrace is how long calls under way may go on once Serve's context is done. 0 is 5 s.
	StopGrace time.Duration
}

// Server serves the CRI. It is made by New, serves once, and holds nothing that would have to be saved.
type Server struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer

	pods      podManager
	images    imageStore
	opts      Options
	driver    runtimeapi.CgroupDriver
	calls     *calls
	streaming *streamServer

	closing context.Context // done when Serve is about to end: what would last for ever ends then
	close   context.CancelFunc
}

// New makes a server and opens its streaming listener, so that URLs can name the real port; it accepts nothing before Serve. An
// option that makes no sense is ErrInvalidArgument. A server that is never served must be closed.
func New(o Options) (*Server, error) {
	if o.Pods == nil || o.Images == nil {
		return nil, fmt.Errorf("pods and images must be set: %w", errdefs.ErrInvalidArgument)
	}
	return newServer(o, manager{o.Pods}, o.Images)
}

func newServer(o Options, pods podManager, images imageStore) (*Server, error) {
	driver, err := cgroupDriver(o.CgroupDriver)
	if err != nil {
		return nil, err
	}
	if o.Version == "" {
		return nil, fmt.Errorf("version must be set: the kubelet refuses a runtime without one: %w", errdefs.ErrInvalidArgument)
	}
	if o.StopGrace == 0 {
		o.StopGrace = 5 * time.Second
	}
	if o.Features == nil {
		// pkg/spec is what makes them true.
		o.Features = &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: true, MountOptions: true, UserNamespacesHostNetwork: true}
	}
	s := &Server{pods: pods, images: images, opts: o, driver: driver}
	s.closing, s.close = context.WithCancel(context.Background())
	s.calls = &calls{
		log:     klog.Background(),
		closing: s.closing,
		latency: newLatencies(&runtimeapi.RuntimeService_ServiceDesc, &runtimeapi.ImageService_ServiceDesc),
		rest:    newRest(),
	}
	if s.streaming, err = newStreamServer(o.Streaming, s); err != nil {
		return nil, fmt.Errorf("streaming server: %w", err)
	}
	return s, nil
}

// Serve answers calls on l, and streams on the streaming listener, until ctx is done or a listener fails. Calls under way then
// have StopGrace to end before they are cut; sessions of exec, attach and port-forward are cut at once, because they may last for
// days. Nothing depends on any of that: a client finds the same world after SIGKILL. Serve closes both listeners and waits for
// what it started, but not for the handlers of sessions. It returns nil when ctx ended it.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	s.calls.log = klog.FromContext(ctx)
	g := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessageSize),
		grpc.MaxSendMsgSize(maxMessageSize),
		grpc.ChainUnaryInterceptor(s.calls.unary),
		grpc.ChainStreamInterceptor(s.calls.stream),
		// The default lets a client ping every 5 minutes, and cuts one that pings more often or without a call under way.
		// The kubelet does not ping; monitoring agents do.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	)
	runtimeapi.RegisterRuntimeServiceServer(g, s)
	runtimeapi.RegisterImageServiceServer(g, s)

	served := make(chan error, 2)
	go func() { served <- g.Serve(l) }()
	go func() { served <- s.streaming.serve(s.calls.log) }()

	var err error
	left := 2
	select {
	case <-ctx.Done():
	case err = <-served:
		left--
		err = fmt.Errorf("serve: %w", errors.Join(err, errUnexpectedEnd))
	}
	s.close()
	s.streaming.close()
	stopped := make(chan struct{})
	go func() { g.GracefulStop(); close(stopped) }()
	grace := time.NewTimer(s.opts.StopGrace)
	defer grace.Stop()
	select {
	case <-stopped:
	case <-grace.C:
		g.Stop() // cancels what is left; GracefulStop then returns too
		<-stopped
	}
	for range left {
		<-served
	}
	return err
}

var errUnexpectedEnd = errors.New("a listener ended by itself")

// Close releases the streaming listener of a server that is not going to be served.
func (s *Server) Close() error { s.close(); s.streaming.close(); return nil }

// StreamingURL is where Exec, Attach and PortForward send clients, without a token.
func (s *Server) StreamingURL() string { return s.streaming.base.String() }

// Latencies returns how long calls took since the start, by method.
func (s *Server) Latencies() []Latency { return s.calls.latency.snapshot() }

func cgroupDriver(name string) (runtimeapi.CgroupDriver, error) {
	switch name {
	case "", "cgroupfs":
		return runtimeapi.CgroupDriver_CGROUPFS, nil
	case "systemd":
		return runtimeapi.CgroupDriver_SYSTEMD, nil
	}
	return 0, fmt.Errorf("cgroup driver %q: must be cgroupfs or systemd: %w", name, errdefs.ErrInvalidArgument)
}
