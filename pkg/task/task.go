// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/boot"
	"github.com/embedcri/embedcri/internal/cgroup"
	"github.com/embedcri/embedcri/internal/ctxlock"
	"github.com/embedcri/embedcri/pkg/exitbpf"
	"github.com/embedcri/embedcri/pkg/ioattach"
	"github.com/embedcri/embedcri/pkg/store"
	"github.com/embedcri/embedcri/pkg/task/internal/runc"
)

// Runtime is what a task needs of an OCI runtime. dir is the bundle, where a runtime may leave its logs. A call that has begun is
// finished even if its context ends.
type Runtime interface {
	Create(ctx context.Context, id, dir string, io ioattach.Stdio) (pid int, err error) // init is parked at the barrier
	Start(ctx context.Context, id, dir string) error
	Passed(id string) bool // init is known to be past the barrier; false says nothing
	// ExecCgroup tells whether Exec can put a process into a sub-cgroup (runc.Exec.Cgroups).
	ExecCgroup() bool
	Exec(ctx context.Context, id, dir string, e runc.Exec) (pid int, err error)
	Pause(ctx context.Context, id, dir string) error
	Resume(ctx context.Context, id, dir string) error
	Update(ctx context.Context, id, dir string, r *specs.LinuxResources) error
	Delete(ctx context.Context, id, dir string) error // idempotent; kills what runs
	List() []string                                   // ids of what it has state of; runs nothing
}

// Exits is what a task needs of the exit tracer.
type Exits interface {
	Watch(k exitbpf.Key, pid int) (Watch, error) // the same call for a new process and after a restart
	Forget(k exitbpf.Key) error                  // only when the exit is durable elsewhere
}

// Watch is one watched process.
type Watch interface {
	Done() <-chan struct{}
	Exit() (exitbpf.Exit, error)
	Signal(sig unix.Signal) error // never by pid number; ErrNotFound once the process is gone
}

// Options wire a Manager.
type Options struct {
	Dir      string // bundles and FIFOs of all tasks, on tmpfs
	Store    *store.Kind
	Exits    Exits
	Streams  *ioattach.Hub
	Runtimes map[string]Runtime // by the name of the handler
	Reaper   *Reaper

	// OnChange hears of each transition after it is stored, in order for each task. It is called with the task's lock held: it
	// must not wait and must not call back.
	OnChange func(id string, s Status)
}

// Manager makes and loads tasks. Its methods may be called by many goroutines at once.
type Manager struct {
	o       Options
	bootID  string
	closing chan struct{}
	quiesce sync.Once
	wg      sync.WaitGroup // the goroutines of all tasks

	suspects map[exitbpf.Key]bool // exit records that Reconcile found to be nobody's the last time
}

// NewManager returns a Manager without tasks.
func NewManager(o Options) (*Manager, error) {
	bootID, err := boot.ID()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o711); err != nil {
		return nil, fmt.Errorf("open tasks: %w", err)
	}
	if o.OnChange == nil {
		o.OnChange = func(string, Status) {}
	}
	return &Manager{o: o, bootID: bootID, closing: make(chan struct{})}, nil
}

// Quiesce stops taking notice of containers: an exit from now on is for the next daemon, to whom the kernel keeps its record and
// the keeper the output. It comes before Task.LetGo and Close, and may be repeated.
func (m *Manager) Quiesce() { m.quiesce.Do(func() { close(m.closing) }) }

// Close lets go of all tasks and waits for what is under way. The containers run on.
func (m *Manager) Close() {
	m.Quiesce()
	m.wg.Wait()
}

// Dir returns the bundle directory of a task: config.json, the FIFOs, and rootfs as a mount point.
func (m *Manager) Dir(id string) string { return filepath.Join(m.o.Dir, id) }

// Rootfs returns where a task's root file system has to be mounted before Create.
func (m *Manager) Rootfs(id string) string { return filepath.Join(m.Dir(id), "rootfs") }

// Task is one container's processes. There is one live Task for an id.
type Task struct {
	id      string
	key     exitbpf.Key
	dir     string
	m       *Manager
	handler string
	runtime Runtime
	cgroup  *cgroup.Cgroup
	private bool // its own pid namespace: the kernel kills the others when init dies
	process *specs.Process

	op      *ctxlock.Lock
	told    bool // under op: a Start of this daemon has succeeded, and said so
	status  atomic.Pointer[Status]
	exited  chan struct{} // closed when the exit is stored, or the task is gone
	streams atomic.Pointer[ioattach.Streams]
	watch   atomic.Pointer[Watch]

	mu         sync.Mutex // guards transitions and what is below
	resources  *specs.LinuxResources
	unsaved    bool          // the status is newer than its record
	stopping   chan struct{} // not nil while a stopper runs; a send makes it look at its deadline again
	execs      map[string]*Exec
	busyGroups []*execGroup // of execs that are over: see dropGroup
	groups     groupIDs
}

func (m *Manager) newTask(id, handler string, spec *specs.Spec) (*Task, error) {
	key, err := exitbpf.KeyOf(id)
	if err != nil {
		return nil, err
	}
	rt, ok := m.o.Runtimes[handler]
	if !ok {
		return nil, fmt.Errorf("runtime handler %q: %w", handler, errdefs.ErrNotFound)
	}
	t := &Task{
		id: id, key: key, dir: m.Dir(id), m: m, handler: handler, runtime: rt,
		op: ctxlock.New(), exited: make(chan struct{}), execs: map[string]*Exec{},
	}
	t.status.Store(&Status{})
	if spec != nil {
		t.describe(spec)
	}
	return t, nil
}

// describe keeps what later operations need of the OCI spec; the spec itself is on disk and not kept in memory.
func (t *Task) describe(spec *specs.Spec) {
	t.process = spec.Process
	if spec.Linux == nil {
		return
	}
	t.cgroup = cgroup.FromOCI(spec.Linux.CgroupsPath)
	t.resources = spec.Linux.Resources
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.PIDNamespace && ns.Path == "" {
			t.private = true
		}
	}
}

// ID returns the task's id.
func (t *Task) ID() string { return t.id }

// Status returns what is known. It never waits.
func (t *Task) Status() Status { return *t.status.Load() }

// Exited is closed once the exit is stored; Status has it then.
func (t *Task) Exited() <-chan struct{} { return t.exited }

// Process returns the OCI process of init, the pattern for execs. It must not be changed.
func (t *Task) Process() *specs.Process { return t.process }

// Cgroup returns the container's cgroup.
func (t *Task) Cgroup() *cgroup.Cgroup { return t.cgroup }

// Streams returns the container's streams; nil if they could not be opened.
func (t *Task) Streams() *ioattach.Streams { return t.streams.Load() }

// apply makes one transition: the table decides, the new status is stored, then shown. change fills in what the event brings; it
// may be nil. An error means that nothing has changed.
//
// What has happened already, or takes away, goes on if it cannot be stored, lest a full disk keep alive what fills it: the old
// record leads the next daemon to the same end. An exit stays in the tracer until it is stored (afterExit).
func (t *Task) apply(e event, change func(*Status)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := *t.status.Load()
	to, err := next(s.State, e)
	if err != nil {
		return fmt.Errorf("container %s: %w", t.id, err)
	}
	s.State = to
	if change != nil {
		change(&s)
	}
	if to != gone {
		if err := t.putLocked(s); err != nil {
			if e != evStarted && e != evExited && e != evRemove {
				return err
			}
			t.log().Error(err, "transition is not on record; going on without", "container", t.id, "state", s.State)
		}
	}
	t.status.Store(&s)
	t.m.o.OnChange(t.id, s)
	return nil
}

// note stores a change that is no transition.
func (t *Task) noteLocked(change func(*Status)) error {
	s := *t.status.Load()
	change(&s)
	if err := t.putLocked(s); err != nil {
		return err
	}
	t.status.Store(&s)
	return nil
}

func (t *Task) signal(sig unix.Signal) error {
	w := t.watch.Load()
	if w == nil {
		return fmt.Errorf("signal container %s: no process: %w", t.id, errdefs.ErrNotFound)
	}
	return (*w).Signal(sig)
}

// LetGo closes the daemon's ends of the container's streams; attached clients end. The container does not notice, and the next
// daemon takes the streams up again.
func (t *Task) LetGo() {
	if s := t.Streams(); s != nil {
		if err := s.Close(); err != nil {
			t.log().Error(err, "let go of streams", "container", t.id)
		}
	}
}

// BootID names this boot of the machine, as records do.
func (m *Manager) BootID() string { return m.bootID }
