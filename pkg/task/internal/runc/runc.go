// SPDX-License-Identifier: Apache-2.0

package runc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	gorunc "github.com/containerd/go-runc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/cgroup"
	"github.com/embedcri/embedcri/pkg/ioattach"
)

// Options say which runtime to drive and how.
type Options struct {
	Path          string        // the runtime's binary
	Root          string        // its state directory (--root), on tmpfs
	SystemdCgroup bool          // cgroups through systemd instead of the file system
	ExecCgroup    bool          // exec takes --cgroup as cgroup.Sub gives it
	Timeout       time.Duration // a call that takes longer is killed; 0 is DefaultTimeout

	// Barriers lets start do what the program would; nil leaves it to the program.
	Barriers Barriers
}

// Barriers opens the FIFO that a parked init waits at. Its reading end has to outlive the daemon: an init that goes on because of it
// and finds it closed when it writes, as the daemon was killed in between, dies of that instead of running the user's program.
type Barriers interface {
	OpenHeld(name, path string) (fd int, err error) // does not wait for init
	LetGo(name string)
}

// DefaultTimeout bounds one call of the runtime. Creating a container takes tens of milliseconds; what takes minutes has hung.
const DefaultTimeout = 2 * time.Minute

// Runtime runs one runtime binary. Its methods may be called by many goroutines at once.
//
// The context of a call carries values and a deadline for waiting. A call that has begun is not cut off when the caller gives up
// (a runtime killed half-way leaves a container that nobody knows); it ends within Options.Timeout.
type Runtime struct{ o Options }

// New returns a Runtime; it touches nothing.
func New(o Options) *Runtime {
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	return &Runtime{o: o}
}

// ExecCgroup tells whether Exec can put a process into a sub-cgroup.
func (r *Runtime) ExecCgroup() bool { return r.o.ExecCgroup }

// Create makes the container of the bundle in dir and parks its init at the exec fifo. It returns init's pid. On error nothing of
// the container is left in the runtime's state directory.
func (r *Runtime) Create(ctx context.Context, id, dir string, io ioattach.Stdio) (int, error) {
	ctx, cancel := r.detach(ctx)
	defer cancel()
	pidfile := filepath.Join(dir, "init.pid")
	log := filepath.Join(dir, "create.log")
	cgroup.OpenAhead()
	err := r.cli(log).Create(ctx, id, dir, &gorunc.CreateOpts{
		IO:            stdio{io},
		PidFile:       pidfile,
		ConsoleSocket: console(io.ConsoleSocket),
	})
	if err != nil {
		return 0, fmt.Errorf("%s create: %w", r.name(), classify(lastError(log), r.explain(ctx, err)))
	}
	os.Remove(log)
	return readPid(pidfile)
}

// Start lifts the barrier: the user's program runs, or has already ended, when it returns.
func (r *Runtime) Start(ctx context.Context, id, dir string) error {
	waiting, cancel := r.detach(ctx)
	defer cancel()
	done, err := r.startNatively(waiting, id, dir)
	if !done {
		err = r.run(ctx, dir, "start", func(ctx context.Context, c *gorunc.Runc) error { return c.Start(ctx, id) })
	}
	if s, ok := r.readState(id); err == nil && ok {
		s.awaitProgram(waiting) // init has passed the barrier, and has yet to execute the program
	}
	return err
}

// Exec starts a further process in the container and returns its pid. The process may have ended by then; its pid stays taken
// until this daemon, which has inherited it, reaps it.
func (r *Runtime) Exec(ctx context.Context, id, dir string, e Exec) (int, error) {
	ctx, cancel := r.detach(ctx)
	defer cancel()
	base := filepath.Join(dir, "exec-"+e.ID)
	pidfile, log := base+".pid", base+".log"
	defer os.Remove(pidfile)
	defer os.Remove(log)
	c := r.cli(log)
	opts := &gorunc.ExecOpts{
		IO:            stdio{e.Stdio},
		LogFile:       log,
		PidFile:       pidfile,
		ConsoleSocket: console(e.Stdio.ConsoleSocket),
		Detach:        true,
	}
	for _, cg := range e.Cgroups {
		opts.ExtraArgs = append(opts.ExtraArgs, "--cgroup", cg)
	}
	cgroup.OpenAhead()
	if err := c.Exec(ctx, id, *e.Process, opts); err != nil {
		return 0, fmt.Errorf("%s exec: %w", r.name(), classify(lastError(log), r.explain(ctx, err)))
	}
	return readPid(pidfile)
}

// Exec is a further process of a container.
type Exec struct {
	ID      string // unique in the container
	Process *specs.Process
	Stdio   ioattach.Stdio
	Cgroups []string // sub-cgroups to put it in, as --cgroup takes them; they exist
}

// Kill sends sig to init.
func (r *Runtime) Kill(ctx context.Context, id, dir string, sig unix.Signal) error {
	return r.run(ctx, dir, "kill", func(ctx context.Context, c *gorunc.Runc) error { return c.Kill(ctx, id, int(sig), nil) })
}

// Pause freezes all processes of the container.
func (r *Runtime) Pause(ctx context.Context, id, dir string) error {
	return r.run(ctx, dir, "pause", func(ctx context.Context, c *gorunc.Runc) error { return c.Pause(ctx, id) })
}

// Resume thaws them.
func (r *Runtime) Resume(ctx context.Context, id, dir string) error {
	return r.run(ctx, dir, "resume", func(ctx context.Context, c *gorunc.Runc) error { return c.Resume(ctx, id) })
}

// Update changes the resource limits of a container.
func (r *Runtime) Update(ctx context.Context, id, dir string, res *specs.LinuxResources) error {
	return r.run(ctx, dir, "update", func(ctx context.Context, c *gorunc.Runc) error { return c.Update(ctx, id, res) })
}

// Delete removes what the runtime has of a container, killing what still runs. It is idempotent. ErrBusy: a cgroup still holds a
// zombie; try again when it is reaped.
func (r *Runtime) Delete(ctx context.Context, id, dir string) error {
	if _, err := os.Stat(filepath.Join(r.o.Root, id)); errors.Is(err, os.ErrNotExist) {
		return nil // the runtime knows it by this directory; there is nothing to run it for
	}
	if done, err := r.deleteNatively(id); done {
		return err
	}
	// Forced, runc waits for 100 ms at least, even for a container that has ended.
	s, ok := r.readState(id)
	force := !ok || !s.initGone()
	err := r.run(ctx, dir, "delete", func(ctx context.Context, c *gorunc.Runc) error {
		return c.Delete(ctx, id, &gorunc.DeleteOpts{Force: force})
	})
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// List returns the ids that the runtime has a state directory of.
func (r *Runtime) List() []string {
	entries, _ := os.ReadDir(r.o.Root) // the first create makes it
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids
}

// run makes one call whose output is only of interest when it fails.
func (r *Runtime) run(ctx context.Context, dir, verb string, f func(context.Context, *gorunc.Runc) error) error {
	ctx, cancel := r.detach(ctx)
	defer cancel()
	log := ""
	if _, err := os.Stat(dir); err == nil {
		log = filepath.Join(dir, verb+".log")
		defer os.Remove(log)
	}
	if err := f(ctx, r.cli(log)); err != nil {
		text := lastError(log)
		if text == "" {
			text = err.Error()
		}
		return fmt.Errorf("%s %s: %w", r.name(), verb, classify(text, r.explain(ctx, err)))
	}
	return nil
}

func (r *Runtime) cli(log string) *gorunc.Runc {
	c := &gorunc.Runc{Command: r.o.Path, Root: r.o.Root, SystemdCgroup: r.o.SystemdCgroup, Setpgid: true}
	if log != "" {
		c.Log, c.LogFormat = log, gorunc.JSON
	}
	return c
}

func (r *Runtime) detach(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), r.o.Timeout)
}

// explain replaces "killed" by the reason for which it was.
func (r *Runtime) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("no answer within %v: %w", r.o.Timeout, context.DeadlineExceeded)
	}
	return err
}

func (r *Runtime) name() string { return filepath.Base(r.o.Path) }

func readPid(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read pid: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 0 {
		return 0, fmt.Errorf("read pid: %s holds %q", path, b)
	}
	return pid, nil
}
