// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/atomicfile"
	"github.com/embedcri/embedcri/internal/ctxlock"
	"github.com/embedcri/embedcri/internal/failpoint"
	"github.com/embedcri/embedcri/internal/namespace"
	"github.com/embedcri/embedcri/pkg/task"
)

// Pod is one pod sandbox. Its exported methods may be called by many goroutines at once.
type Pod struct {
	m         *Manager
	meta      podIdentity // never changes
	digest    digest      // of the request that made it
	op        *ctxlock.Lock
	state     atomic.Pointer[podState]
	durable   func() error            // while it is made: waits until its identity outlives a power loss
	endMaking context.CancelCauseFunc // set before the pod can be found; nil if an earlier daemon made it
	made      <-chan struct{}         // closed when its making is over, well or not; nil as endMaking is
	stages    atomic.Pointer[[]Stage] // of its making, if it was this daemon that made it

	mu         sync.Mutex
	containers map[string]*Container
	names      map[string]*Container // by containerKey
	creating   int                   // containers being created, or taken back
	created    chan struct{}         // closed when creating falls to 0, if somebody waits
	init       *task.Task            // pid 1 of a pod that shares its pid namespace
	removed    bool

	settling <-chan struct{} // set by recovery: closed when what it takes back of the pod is done; else nil
}

// PodStatus is what is known of a pod. It is a copy.
type PodStatus struct {
	Ready     bool
	State     State
	CreatedAt time.Time
	IPs       []string // the primary one first
	NetNS     string   // path of the pinned network namespace; empty with the host's
	Message   string
	Awaited   bool    // it is being made, and who asked for it waits for that
	Stages    []Stage // what took how long when it was made; nil if an earlier daemon made it

	Overhead, Resources *runtimeapi.LinuxContainerResources // as UpdateResources recorded them; nil: never told
}

func (m *Manager) newPod(meta podIdentity) (*Pod, error) {
	d, err := digestOf(meta.Config.M, meta.Handler)
	if err != nil {
		return nil, err
	}
	p := &Pod{m: m, meta: meta, digest: d, op: ctxlock.New(), containers: map[string]*Container{}, names: map[string]*Container{}}
	p.state.Store(&podState{State: Creating})
	return p, nil
}

// ID returns the pod's id.
func (p *Pod) ID() string { return p.meta.ID }

// Config returns the configuration the pod was made with. It must not be changed.
func (p *Pod) Config() *runtimeapi.PodSandboxConfig { return p.meta.Config.M }

// Handler returns the name of the pod's runtime handler.
func (p *Pod) Handler() string { return p.meta.Handler }

// Status returns what is known of the pod. It never waits.
func (p *Pod) Status() PodStatus {
	s := p.state.Load()
	st := PodStatus{
		Ready: s.State == Ready, State: s.State, CreatedAt: p.meta.CreatedAt,
		NetNS: s.Namespaces.Net, Message: s.Message,
	}
	if s.State == Creating {
		st.Awaited = p.m.podJoins.awaited(podKey(p.Config().GetMetadata()))
	}
	if stages := p.stages.Load(); stages != nil {
		st.Stages = *stages
	}
	if s.Overhead != nil {
		st.Overhead = s.Overhead.M
	}
	if s.Resources != nil {
		st.Resources = s.Resources.M
	}
	if s.Attachment != nil && s.State == Ready {
		st.IPs = append(st.IPs, s.Attachment.IPs...)
	}
	return st
}

// Containers returns the pod's containers, the oldest first.
func (p *Pod) Containers() []*Container {
	p.mu.Lock()
	defer p.mu.Unlock()
	return sortContainers(p.containers)
}

// note stores a change of state that is no transition.
func (p *Pod) note(change func(*podState)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.noteLocked(change)
}

// noteStep is note for a durable step.
func (p *Pod) noteStep(s failpoint.Step, change func(*podState)) error {
	return s.Do(func() error { return p.note(change) })
}

// noteUnmade is noteStep for what has been taken away. A disk that takes no record is no reason to stop taking away: what the old
// record leads the next daemon to do again is idempotent.
func (p *Pod) noteUnmade(s failpoint.Step, change func(*podState)) error {
	return s.Do(func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.noteAnywayLocked(change)
	})
}

func (p *Pod) noteAnywayLocked(change func(*podState)) error {
	if err := p.noteLocked(change); err != nil {
		p.m.log().Error(err, "pod state is not on record; going on without", "pod", p.meta.ID)
		s := *p.state.Load()
		change(&s)
		p.state.Store(&s)
	}
	return nil
}

func (p *Pod) noteLocked(change func(*podState)) error {
	s := *p.state.Load()
	change(&s)
	if err := p.m.podRecs.Put(p.meta.ID, stateRecord, s, atomicfile.Process); err != nil {
		return err
	}
	p.state.Store(&s)
	return nil
}

// apply makes one transition, as the table says.
func (p *Pod) apply(e event) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	to, err := next(p.state.Load().State, e)
	if err != nil {
		return fmt.Errorf("pod %s: %w", p.meta.ID, err)
	}
	change := func(s *podState) {
		s.State = to
		s.HalfMade = s.HalfMade && e != evMade
	}
	if e != evMade {
		return p.noteAnywayLocked(change)
	}
	return p.noteLocked(change)
}

// beginCreate lets a container be created, if the pod is ready; the returned function ends that.
func (p *Pod) beginCreate() (end func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.state.Load().State; s != Ready {
		return nil, fmt.Errorf("pod %s is %s: %w", p.meta.ID, s, errdefs.ErrFailedPrecondition)
	}
	p.creating++
	return p.endCreate, nil
}

func (p *Pod) endCreate() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.creating--
	if p.creating == 0 && p.created != nil {
		close(p.created)
		p.created = nil
	}
}

// holdForDiscard keeps the pod from being stopped until endCreate, as something in it is being taken back.
func (p *Pod) holdForDiscard() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.creating++
}

// waitCreated waits until no container is being created or taken back. The pod is not Ready any more, so no new one begins.
func (p *Pod) waitCreated(ctx context.Context) error {
	p.mu.Lock()
	if p.creating == 0 {
		p.mu.Unlock()
		return nil
	}
	if p.created == nil {
		p.created = make(chan struct{})
	}
	done := p.created
	p.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for a container that is being created or taken back: %w", context.Cause(ctx))
	}
}

// Dial connects to a TCP port on the pod's loopback, IPv4 first, then IPv6. The connection is made inside the pod's network
// namespace; with the host's network it is the host's loopback.
func (p *Pod) Dial(ctx context.Context, port int) (net.Conn, error) {
	s := p.state.Load()
	if s.State != Ready {
		return nil, fmt.Errorf("pod %s is %s: %w", p.meta.ID, s.State, errdefs.ErrFailedPrecondition)
	}
	var errs []error
	for _, host := range []string{"127.0.0.1", "::1"} {
		addr := net.JoinHostPort(host, strconv.Itoa(port))
		var c net.Conn
		var err error
		if path := s.Namespaces.Net; path != "" {
			c, err = namespace.Dial(ctx, path, "tcp", addr)
		} else {
			c, err = new(net.Dialer).DialContext(ctx, "tcp", addr)
		}
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("dial port %d in pod %s: %w", port, p.meta.ID, errors.Join(errs...))
}

// Modes of namespaces, shorthands for what is deep in the CRI's messages.
func (p *Pod) namespaceOptions() *runtimeapi.NamespaceOption {
	return p.Config().GetLinux().GetSecurityContext().GetNamespaceOptions()
}

func (p *Pod) hostNetwork() bool {
	return p.namespaceOptions().GetNetwork() == runtimeapi.NamespaceMode_NODE
}

func (p *Pod) hostIPC() bool { return p.namespaceOptions().GetIpc() == runtimeapi.NamespaceMode_NODE }

// sharesPID tells whether containers of the pod see each other's processes. That needs somebody to be pid 1.
func (p *Pod) sharesPID() bool { return p.namespaceOptions().GetPid() == runtimeapi.NamespaceMode_POD }
