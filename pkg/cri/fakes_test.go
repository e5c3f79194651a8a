// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/go-logr/logr/funcr"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/embedcri/embedcri/pkg/image"
	"github.com/embedcri/embedcri/pkg/ioattach"
	"github.com/embedcri/embedcri/pkg/sandbox"
	"github.com/embedcri/embedcri/pkg/task"
)

// The fakes record what they were asked and answer what the test put into them.

type fakePods struct {
	pods      []*fakePod
	handlers  []sandbox.Handler
	cond      sandbox.Conditions
	run       func(ctx context.Context, c *runtimeapi.PodSandboxConfig, handler string) (pod, error)
	events    chan podEvent
	subscribe func() subscription // instead of events
}

func (f *fakePods) Run(ctx context.Context, c *runtimeapi.PodSandboxConfig, handler string) (pod, error) {
	return f.run(ctx, c, handler)
}

func (f *fakePods) Pod(id string) (pod, error) {
	for _, p := range f.pods {
		if p.id == id {
			return p, nil
		}
	}
	return nil, fmt.Errorf("pod %s: %w", id, errdefs.ErrNotFound)
}

func (f *fakePods) Container(id string) (container, error) {
	for _, c := range f.Containers() {
		if c.ID() == id {
			return c, nil
		}
	}
	return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
}

func (f *fakePods) Pods() (out []pod) {
	for _, p := range f.pods {
		out = append(out, p)
	}
	return out
}

func (f *fakePods) Containers() (out []container) {
	for _, p := range f.pods {
		out = append(out, p.Containers()...)
	}
	return out
}

func (f *fakePods) Conditions() sandbox.Conditions              { return f.cond }
func (f *fakePods) Handlers() []sandbox.Handler                 { return f.handlers }
func (f *fakePods) UpdatePodCIDR(context.Context, string) error { return nil }

func (f *fakePods) ContainerStats(ids []string) map[string]sandbox.ContainerStats {
	out := map[string]sandbox.ContainerStats{}
	for _, id := range ids {
		for _, p := range f.pods {
			if s, ok := p.stats.Containers[id]; ok {
				out[id] = s
			}
		}
	}
	return out
}

func (f *fakePods) PodStats(ids []string) map[string]sandbox.PodStats {
	out := map[string]sandbox.PodStats{}
	for _, id := range ids {
		if p, err := f.Pod(id); err == nil {
			out[id] = p.(*fakePod).stats
		}
	}
	return out
}

func (f *fakePods) Subscribe() subscription {
	if f.subscribe != nil {
		return f.subscribe()
	}
	return fakeSubscription(f.events)
}

// fakeSubscription hands on what the test sends.
type fakeSubscription chan podEvent

func (s fakeSubscription) Next(ctx context.Context) (podEvent, uint64, error) {
	select {
	case e := <-s:
		return e, 0, nil
	case <-ctx.Done():
		return podEvent{}, 0, context.Cause(ctx)
	}
}

func (s fakeSubscription) Close() {}

type fakePod struct {
	id         string
	config     *runtimeapi.PodSandboxConfig
	status     sandbox.PodStatus
	containers []*fakeContainer
	calls      []string
	err        error
	dial       func(ctx context.Context, port int) (net.Conn, error)
	stats      sandbox.PodStats
	overhead   *runtimeapi.LinuxContainerResources
	resources  *runtimeapi.LinuxContainerResources
	adopt      sync.Once // tells the containers whose they are
}

func (p *fakePod) ID() string                           { return p.id }
func (p *fakePod) Config() *runtimeapi.PodSandboxConfig { return p.config }
func (p *fakePod) Handler() string                      { return "runc" }
func (p *fakePod) Status() sandbox.PodStatus            { return p.status }
func (p *fakePod) Stop(context.Context) error           { p.calls = append(p.calls, "stop"); return p.err }
func (p *fakePod) Remove(context.Context) error         { p.calls = append(p.calls, "remove"); return p.err }

func (p *fakePod) Containers() (out []container) {
	p.adopt.Do(func() {
		for _, c := range p.containers {
			c.pod = p
		}
	})
	for _, c := range p.containers {
		out = append(out, c)
	}
	return out
}

func (p *fakePod) CreateContainer(_ context.Context, c *runtimeapi.ContainerConfig) (container, error) {
	if p.err != nil {
		return nil, p.err
	}
	return &fakeContainer{id: strings.Repeat("c", 64), config: c, pod: p}, nil
}

func (p *fakePod) UpdateResources(overhead, resources *runtimeapi.LinuxContainerResources) error {
	p.overhead, p.resources = overhead, resources
	return p.err
}

func (p *fakePod) Dial(ctx context.Context, port int) (net.Conn, error) { return p.dial(ctx, port) }

type fakeContainer struct {
	id        string
	pod       *fakePod
	config    *runtimeapi.ContainerConfig
	status    task.Status
	createdAt time.Time
	imageRef  string

	err      error
	grace    time.Duration
	update   *runtimeapi.LinuxContainerResources
	execSync func(ctx context.Context, cmd []string, timeout time.Duration) (sandbox.ExecResult, error)
	exec     func(ctx context.Context, r sandbox.ExecRequest) (int32, error)
	attach   func(ctx context.Context, c ioattach.Client) error
}

func (c *fakeContainer) ID() string                                { return c.id }
func (c *fakeContainer) PodID() string                             { return c.pod.id }
func (c *fakeContainer) Config() *runtimeapi.ContainerConfig       { return c.config }
func (c *fakeContainer) ImageID() string                           { return "sha256:1d" }
func (c *fakeContainer) ImageRef() string                          { return c.imageRef }
func (c *fakeContainer) LogPath() string                           { return "/var/log/pods/x/0.log" }
func (c *fakeContainer) CreatedAt() time.Time                      { return c.createdAt }
func (c *fakeContainer) Status() task.Status                       { return c.status }
func (c *fakeContainer) Mounts() []*runtimeapi.Mount               { return c.config.GetMounts() }
func (c *fakeContainer) User() *runtimeapi.ContainerUser           { return nil }
func (c *fakeContainer) Resources() *runtimeapi.ContainerResources { return nil }
func (c *fakeContainer) StopSignal() runtimeapi.Signal             { return runtimeapi.Signal_SIGNAL_SIGTERM }
func (c *fakeContainer) Verbose() map[string]string {
	return map[string]string{"runtimeSpec": `{"ociVersion":"1.2.0"}`, "note": "not json"}
}
func (c *fakeContainer) Start(context.Context) error { return c.err }
func (c *fakeContainer) Stop(_ context.Context, grace time.Duration) error {
	c.grace = grace
	return c.err
}
func (c *fakeContainer) Remove(context.Context) error    { return c.err }
func (c *fakeContainer) ReopenLog(context.Context) error { return c.err }
func (c *fakeContainer) Update(_ context.Context, r *runtimeapi.LinuxContainerResources) error {
	c.update = r
	return c.err
}
func (c *fakeContainer) ExecSync(ctx context.Context, cmd []string, timeout time.Duration) (sandbox.ExecResult, error) {
	return c.execSync(ctx, cmd, timeout)
}
func (c *fakeContainer) Exec(ctx context.Context, r sandbox.ExecRequest) (int32, error) {
	return c.exec(ctx, r)
}
func (c *fakeContainer) Attach(ctx context.Context, client ioattach.Client) error {
	return c.attach(ctx, client)
}

type fakeImages struct {
	images []*image.Image
	pulled image.PullRequest
	err    error
	usage  image.StoreUsage
}

func (f *fakeImages) Pull(_ context.Context, r image.PullRequest) (*image.Image, error) {
	f.pulled = r
	if f.err != nil {
		return nil, f.err
	}
	return f.images[0], nil
}

func (f *fakeImages) Image(ref string) (*image.Image, error) {
	for _, i := range f.images {
		if i.ID == ref || len(i.RepoTags) > 0 && i.RepoTags[0] == ref {
			return i, nil
		}
	}
	return nil, fmt.Errorf("image %s: %w", ref, errdefs.ErrNotFound)
}

func (f *fakeImages) Images() []*image.Image                          { return f.images }
func (f *fakeImages) Remove(context.Context, string) error            { return f.err }
func (f *fakeImages) Usage(context.Context) (image.StoreUsage, error) { return f.usage, f.err }

var (
	podID = strings.Repeat("a", 64)
	ctrID = strings.Repeat("b", 64)
)

// node is a pod that is ready, with one running container.
func node() (*fakePods, *fakePod, *fakeContainer) {
	c := &fakeContainer{
		id:        ctrID,
		config:    containerConfig(),
		status:    task.Status{State: task.Running, Pid: 42, StartedAt: time.Unix(2, 0)},
		createdAt: time.Unix(1, 5),
		imageRef:  "registry.example/app@sha256:ff",
	}
	p := &fakePod{
		id: podID, config: podConfig(), containers: []*fakeContainer{c},
		status: sandbox.PodStatus{Ready: true, State: sandbox.Ready, CreatedAt: time.Unix(1, 0), IPs: []string{"10.0.0.2", "fd00::2"}},
	}
	c.pod = p
	return &fakePods{pods: []*fakePod{p}, cond: sandbox.Conditions{RuntimeReady: true}, handlers: []sandbox.Handler{{Name: "runc"}, {Name: "crun"}}}, p, c
}

func podConfig() *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "default", Uid: "u1"},
		LogDirectory: "/var/log/pods/x",
		Labels:       map[string]string{"app": "web"},
		Annotations:  map[string]string{"odd": " kept as it is\n"},
	}
}

func containerConfig() *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata:    &runtimeapi.ContainerMetadata{Name: "app", Attempt: 3},
		Image:       &runtimeapi.ImageSpec{Image: "sha256:1d", UserSpecifiedImage: "registry.example/app:v1"},
		LogPath:     "app/3.log",
		Labels:      map[string]string{"tier": "front"},
		Annotations: map[string]string{"a": "b"},
		Envs:        []*runtimeapi.KeyValue{{Key: "TOKEN", Value: []byte("hunter2")}},
	}
}

// logLines collects what a logger writes.
type logLines struct {
	mu    sync.Mutex
	lines []string
}

func (l *logLines) logger(verbosity int) klog.Logger {
	return funcr.New(func(prefix, args string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.lines = append(l.lines, prefix+args)
	}, funcr.Options{Verbosity: verbosity})
}

func (l *logLines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.lines...)
}

// serve serves the fakes in memory and returns clients, the server and its log.
func serve(t *testing.T, pods *fakePods, images *fakeImages, change ...func(*Options)) (runtimeapi.RuntimeServiceClient, runtimeapi.ImageServiceClient, *Server, *logLines) {
	t.Helper()
	o := Options{Version: "0.1.0"}
	for _, f := range change {
		f(&o)
	}
	s, err := newServer(o, pods, images)
	if err != nil {
		t.Fatal(err)
	}
	lines := &logLines{}
	ctx, cancel := context.WithCancel(klog.NewContext(context.Background(), lines.logger(quietVerbosity)))
	l := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	conn := dialBuf(t, l)
	t.Cleanup(func() {
		_ = conn.Close()
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn), s, lines
}

func dialBuf(t *testing.T, l *bufconn.Listener) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///bufconn",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageSize))) // as cri-client does
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func clientOf(t *testing.T, l *bufconn.Listener) runtimeapi.RuntimeServiceClient {
	t.Helper()
	conn := dialBuf(t, l)
	t.Cleanup(func() { _ = conn.Close() })
	return runtimeapi.NewRuntimeServiceClient(conn)
}
