// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"net"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/pkg/image"
	"github.com/embedcri/embedcri/pkg/ioattach"
	"github.com/embedcri/embedcri/pkg/sandbox"
	"github.com/embedcri/embedcri/pkg/task"
)

// What the handlers need of the layers below. The interfaces exist so that every handler can be tested over a real gRPC
// connection without root, runc or BPF; in the daemon they are *sandbox.Manager, *sandbox.Pod, *sandbox.Container and
// *image.Store. The types below them tell what each method promises.

type podManager interface {
	Run(ctx context.Context, c *runtimeapi.PodSandboxConfig, handler string) (pod, error)
	Pod(id string) (pod, error)
	Container(id string) (container, error)
	Pods() []pod
	Containers() []container
	Conditions() sandbox.Conditions
	Handlers() []sandbox.Handler
	UpdatePodCIDR(ctx context.Context, cidr string) error
	ContainerStats(ids []string) map[string]sandbox.ContainerStats
	PodStats(ids []string) map[string]sandbox.PodStats
	Subscribe() subscription
}

// subscription is a *sandbox.Subscription.
type subscription interface {
	Next(ctx context.Context) (e podEvent, lost uint64, err error)
	Close()
}

type pod interface {
	ID() string
	Config() *runtimeapi.PodSandboxConfig
	Handler() string
	Containers() []container
	Status() sandbox.PodStatus
	Stop(ctx context.Context) error
	Remove(ctx context.Context) error
	CreateContainer(ctx context.Context, c *runtimeapi.ContainerConfig) (container, error)
	Dial(ctx context.Context, port int) (net.Conn, error)
	UpdateResources(overhead, resources *runtimeapi.LinuxContainerResources) error
}

type container interface {
	ID() string
	PodID() string
	Config() *runtimeapi.ContainerConfig
	ImageID() string
	ImageRef() string
	LogPath() string
	CreatedAt() time.Time
	Status() task.Status
	Mounts() []*runtimeapi.Mount
	User() *runtimeapi.ContainerUser
	Resources() *runtimeapi.ContainerResources
	StopSignal() runtimeapi.Signal
	Verbose() map[string]string
	Start(ctx context.Context) error
	Stop(ctx context.Context, grace time.Duration) error
	Remove(ctx context.Context) error
	ExecSync(ctx context.Context, cmd []string, timeout time.Duration) (sandbox.ExecResult, error)
	Exec(ctx context.Context, r sandbox.ExecRequest) (int32, error)
	Attach(ctx context.Context, c ioattach.Client) error
	ReopenLog(ctx context.Context) error
	Update(ctx context.Context, r *runtimeapi.LinuxContainerResources) error
}

type imageStore interface {
	Pull(ctx context.Context, r image.PullRequest) (*image.Image, error)
	Image(ref string) (*image.Image, error)
	Images() []*image.Image
	Remove(ctx context.Context, ref string) error
	Usage(ctx context.Context) (image.StoreUsage, error)
}

// manager, podOf and containerOf give the concrete types the shape of the interfaces: only what returns another of them differs.
type manager struct{ *sandbox.Manager }

type podOf struct{ *sandbox.Pod }

type containerOf struct{ *sandbox.Container }

type subscriptionOf struct{ *sandbox.Subscription }

var (
	_ podManager = manager{}
	_ pod        = podOf{}
	_ container  = containerOf{}
	_ imageStore = (*image.Store)(nil)

	_ subscription = subscriptionOf{}
)

// Run is sandbox.Manager.Run. Likewise the methods below are those of the types that they wrap.
func (m manager) Run(ctx context.Context, c *runtimeapi.PodSandboxConfig, handler string) (pod, error) {
	p, err := m.Manager.Run(ctx, c, handler)
	if err != nil {
		return nil, err
	}
	return podOf{p}, nil
}

func (m manager) Pod(id string) (pod, error) {
	p, err := m.Manager.Pod(id)
	if err != nil {
		return nil, err
	}
	return podOf{p}, nil
}

func (m manager) Container(id string) (container, error) {
	c, err := m.Manager.Container(id)
	if err != nil {
		return nil, err
	}
	return containerOf{c}, nil
}

func (m manager) Pods() []pod {
	ps := m.Manager.Pods()
	out := make([]pod, len(ps))
	for i, p := range ps {
		out[i] = podOf{p}
	}
	return out
}

func (m manager) Containers() []container { return containersOf(m.Manager.Containers()) }

func (m manager) Subscribe() subscription { return subscriptionOf{m.Manager.Subscribe()} }

func (s subscriptionOf) Next(ctx context.Context) (podEvent, uint64, error) {
	e, lost, err := s.Subscription.Next(ctx)
	if err != nil {
		return podEvent{}, 0, err
	}
	return podEvent{ContainerID: e.ContainerID, Pod: podOf{e.Pod}, Type: e.Type, At: e.At}, lost, nil
}

func (p podOf) Containers() []container { return containersOf(p.Pod.Containers()) }

func (p podOf) CreateContainer(ctx context.Context, c *runtimeapi.ContainerConfig) (container, error) {
	ctr, err := p.Pod.CreateContainer(ctx, c)
	if err != nil {
		return nil, err
	}
	return containerOf{ctr}, nil
}

func (c containerOf) PodID() string { return c.Container.Pod().ID() }

func containersOf(cs []*sandbox.Container) []container {
	out := make([]container, len(cs))
	for i, c := range cs {
		out[i] = containerOf{c}
	}
	return out
}
