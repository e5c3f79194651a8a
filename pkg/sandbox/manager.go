// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"k8s.io/klog/v2"

	"github.com/embedcri/embedcri/pkg/image"
	"github.com/embedcri/embedcri/pkg/network"
	"github.com/embedcri/embedcri/pkg/spec"
	"github.com/embedcri/embedcri/pkg/stats"
	"github.com/embedcri/embedcri/pkg/store"
	"github.com/embedcri/embedcri/pkg/task"
)

// Images is what pods need of the image store.
type Images interface {
	Image(ref string) (*image.Image, error)
	CreateRootfs(ctx context.Context, r image.RootfsRequest) error
	RemoveRootfs(ctx context.Context, containerID, target string) error
	MountImage(ctx context.Context, r image.VolumeRequest) error
	UnmountImage(ctx context.Context, target string) error
	RootfsUsage(ctx context.Context, containerID string) (image.Usage, error)
	Rootfses(ctx context.Context) ([]string, error) // ids of containers
	Volumes(ctx context.Context) ([]string, error)  // targets
}

// Network is what pods need of CNI.
type Network interface {
	Plan(p network.Pod) (*network.Attachment, error)
	Attach(ctx context.Context, a *network.Attachment) error
	Detach(ctx context.Context, a *network.Attachment) error
	Status() (ready bool, reason, message string)
	GC(ctx context.Context, valid []*network.Attachment) error
	UpdatePodCIDR(ctx context.Context, cidr string) error
}

// Options wire a Manager.
type Options struct {
	Records      *store.Store
	Tasks        task.Options // Store and OnChange are the manager's to set
	Images       Images
	Network      Network
	CDI          *spec.CDI
	Node         spec.Node
	Handlers     map[string]Handler
	Default      string // handler of pods that name none
	PodDir       string // files that a pod's containers share, on tmpfs
	NamespaceDir string // pins of pod namespaces; prepared by the caller (namespace.Prepare)
	CgroupParent string // of pods that name none
	Systemd      bool   // cgroups are systemd's
	ShmSize      int64  // bytes of a pod's /dev/shm
	DrainTimeout time.Duration
	ImageVolumes string            // VolumesBind, VolumesMkdir or VolumesIgnore
	PodInit      string            // the init of pods that share their pid namespace: a static program
	EveryPodInit bool              // run it in all others too
	Sysctls      map[string]string // of every pod with namespaces of its own, unless it sets them itself
	RuntimeError string            // why the runtime is not as it should be; shown in Status, does not make it unready
}

// Handler is one runtime handler and what it can do.
type Handler struct {
	Name     string
	Spec     spec.Handler
	Features Features
}

// Features of a handler (CRI RuntimeHandlerFeatures).
type Features struct {
	RecursiveReadOnlyMounts bool
	UserNamespaces          bool
}

// Conditions is what the CRI's Status call reports.
type Conditions struct {
	RuntimeReady                  bool
	RuntimeReason, RuntimeMessage string
	NetworkReady                  bool
	NetworkReason, NetworkMessage string
}

// Manager holds all pods and containers. Its methods may be called by many goroutines at once.
type Manager struct {
	o       Options
	tasks   *task.Manager
	podRecs *store.Kind
	ctrRecs *store.Kind
	base    context.Context // what operations run on: they outlive the call that began them
	cancel  context.CancelFunc
	wg      sync.WaitGroup // what recovery goes on with in the background

	collected chan struct{} // closed when the network's garbage has been collected

	podJoins joins[*Pod]
	ctrJoins joins[*Container]
	launches *launchLimit // of execs
	levels   *spec.Levels // of SELinux

	events                           *events
	stats                            *stats.Collector
	podStages, ctrStages, execStages stageTotals

	mu         sync.Mutex
	pods       map[string]*Pod
	names      map[string]*Pod // by podKey
	containers map[string]*Container
}

// New returns a Manager without pods; Recover brings them back.
func New(o Options) (*Manager, error) {
	podRecs, err := o.Records.Kind("pods")
	if err != nil {
		return nil, err
	}
	ctrRecs, err := o.Records.Kind("containers")
	if err != nil {
		return nil, err
	}
	if err := errors.Join(podRecs.Sweep(), ctrRecs.Sweep()); err != nil {
		return nil, err
	}
	m := &Manager{
		o: o, podRecs: podRecs, ctrRecs: ctrRecs, launches: newLaunchLimit(max(8, 4*runtime.NumCPU())),
		pods: map[string]*Pod{}, names: map[string]*Pod{}, containers: map[string]*Container{},
		levels: spec.NewLevels(), events: newEvents(), collected: make(chan struct{}),
	}
	m.base, m.cancel = context.WithCancel(context.Background())
	m.o.Tasks.Store, m.o.Tasks.OnChange = ctrRecs, m.events.onChange
	if m.tasks, err = task.NewManager(m.o.Tasks); err != nil {
		return nil, err
	}
	m.stats = stats.New(collectorOptions(o.Images))
	return m, nil
}

// Quiesce prepares for the end of the daemon: it lets go of all streams. It has to come before attached clients are cut off, as a
// client that leaves by itself may close a container's stdin for good (StdinOnce), and this is not the client's doing.
func (m *Manager) Quiesce() {
	m.tasks.Quiesce()
	for _, c := range m.Containers() {
		c.task.LetGo()
	}
}

// Close lets go of everything; pods and containers live on.
func (m *Manager) Close() {
	m.Quiesce()
	m.cancel()
	m.wg.Wait()
	m.tasks.Close()
	m.stats.Close()
}

// Conditions says whether pods can be run. It never waits.
func (m *Manager) Conditions() Conditions {
	c := Conditions{RuntimeReady: true, RuntimeMessage: m.o.RuntimeError}
	if m.o.RuntimeError != "" {
		c.RuntimeReason = "Degraded"
	}
	c.NetworkReady, c.NetworkReason, c.NetworkMessage = m.o.Network.Status()
	return c
}

// UpdatePodCIDR hands the node's pod CIDRs to the network.
func (m *Manager) UpdatePodCIDR(ctx context.Context, cidr string) error {
	return m.o.Network.UpdatePodCIDR(ctx, cidr)
}

// Handlers returns the runtime handlers, the default one first.
func (m *Manager) Handlers() []Handler {
	var hs []Handler
	for _, h := range m.o.Handlers {
		hs = append(hs, h)
	}
	slices.SortFunc(hs, func(a, b Handler) int {
		if (a.Name == m.o.Default) != (b.Name == m.o.Default) {
			if a.Name == m.o.Default {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return hs
}

// Pod finds a pod by its id, or by the beginning of it if that is unique. ErrNotFound, or ErrInvalidArgument for what cannot be
// an id.
func (m *Manager) Pod(id string) (*Pod, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return find(m.pods, "pod", id)
}

// Container finds a container likewise.
func (m *Manager) Container(id string) (*Container, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return find(m.containers, "container", id)
}

// Pods returns all pods, the oldest first.
func (m *Manager) Pods() []*Pod {
	m.mu.Lock()
	defer m.mu.Unlock()
	pods := make([]*Pod, 0, len(m.pods))
	for _, p := range m.pods {
		pods = append(pods, p)
	}
	slices.SortFunc(pods, func(a, b *Pod) int { return a.meta.CreatedAt.Compare(b.meta.CreatedAt) })
	return pods
}

// Containers returns all containers, the oldest first.
func (m *Manager) Containers() []*Container {
	m.mu.Lock()
	defer m.mu.Unlock()
	return sortContainers(m.containers)
}

func sortContainers(set map[string]*Container) []*Container {
	cs := make([]*Container, 0, len(set))
	for _, c := range set {
		cs = append(cs, c)
	}
	slices.SortFunc(cs, func(a, b *Container) int { return a.meta.CreatedAt.Compare(b.meta.CreatedAt) })
	return cs
}

// idPattern is what ids are made of. Whatever else a client sends, a path for one, never gets near the file system.
var idPattern = regexp.MustCompile(`^[0-9a-f]{1,64}$`)

func find[T any](set map[string]T, kind, id string) (T, error) {
	var zero T
	if !idPattern.MatchString(id) {
		return zero, fmt.Errorf("%s id %q is not hexadecimal: %w", kind, id, errdefs.ErrInvalidArgument)
	}
	if v, ok := set[id]; ok {
		return v, nil
	}
	found, n := zero, 0
	for full, v := range set {
		if strings.HasPrefix(full, id) {
			found, n = v, n+1
		}
	}
	switch n {
	case 0:
		return zero, fmt.Errorf("%s %s: %w", kind, id, errdefs.ErrNotFound)
	case 1:
		return found, nil
	}
	return zero, fmt.Errorf("%s id %s is the beginning of %d ids: %w", kind, id, n, errdefs.ErrInvalidArgument)
}

func newID() string {
	b := make([]byte, 32)
	rand.Read(b) // never fails (crypto/rand)
	return hex.EncodeToString(b)
}

func (m *Manager) handler(name string) (Handler, error) {
	if name == "" {
		name = m.o.Default
	}
	h, ok := m.o.Handlers[name]
	if !ok {
		return Handler{}, fmt.Errorf("runtime_handler %q is not configured: %w", name, errdefs.ErrNotFound)
	}
	return h, nil
}

func (m *Manager) log() klog.Logger { return klog.Background() }
