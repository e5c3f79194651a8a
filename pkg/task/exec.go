// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/failpoint"
	"github.com/embedcri/embedcri/pkg/exitbpf"
	"github.com/embedcri/embedcri/pkg/ioattach"
	"github.com/embedcri/embedcri/pkg/task/internal/runc"
)

// Exec is a further process in a running container.
type Exec struct {
	t     *Task
	id    string
	key   exitbpf.Key
	pid   int
	group *execGroup // the sub-cgroup that holds all its descendants; nil where there can be none
	watch Watch
	done  chan struct{}
	exit  Exit // once done is closed

	stages []ExecStage // of the launch
}

// Exec starts process in the container. The ends of its streams are the caller's to close as soon as Exec has returned. The caller
// has to Close the Exec.
//
// An exec has no barrier: it may be over before it is watched. The tracer still knows how it ended (see exitbpf, recent exits), as
// this daemon inherits the process from the runtime and reaps it only when it is watched.
func (t *Task) Exec(ctx context.Context, process *specs.Process, io ioattach.Stdio) (*Exec, error) {
	if err := t.canExec(); err != nil {
		return nil, err
	}
	e := &Exec{t: t, id: newExecID(), done: make(chan struct{})}
	key, err := exitbpf.KeyOf(e.id)
	if err != nil {
		return nil, err
	}
	e.key = key
	took := laps{since: time.Now()}
	e.group = t.newExecGroup(e.id)
	took.end("sub-cgroup")
	defer t.m.o.Reaper.Launch()() // its zombie is not to be reaped as an orphan before it is watched
	var pid int
	err = failpoint.RuntimeExec.Do(func() (err error) {
		pid, err = t.runtime.Exec(ctx, t.id, t.dir, runc.Exec{ID: e.id, Process: process, Stdio: io, Cgroups: e.group.args()})
		return err
	})
	if err != nil {
		t.dropGroup(e.group)
		// The container may have died under the runtime's hands: say that, not what the runtime stumbled over.
		if serr := t.canExec(); serr != nil {
			return nil, serr
		}
		return nil, fmt.Errorf("exec in container %s: %w", t.id, err)
	}
	took.end("runtime exec")
	e.pid = pid
	if err := setOOMScoreAdj(pid, process.OOMScoreAdj); err != nil {
		t.log().Error(err, "adjust exec's OOM score", "container", t.id)
	}
	var w Watch
	err = failpoint.ExecWatch.Do(func() (err error) {
		w, err = t.m.o.Exits.Watch(key, pid)
		return err
	})
	if err != nil {
		e.group.kill()
		t.dropGroup(e.group)
		return nil, errors.Join(fmt.Errorf("exec in container %s: watch: %w", t.id, err), t.m.o.Exits.Forget(key))
	}
	took.end("watch")
	e.watch, e.stages = w, took.done
	t.mu.Lock()
	t.execs[e.id] = e
	t.mu.Unlock()
	t.m.wg.Go(e.follow)
	return e, nil
}

// setOOMScoreAdj makes up for runtimes that leave an exec with the daemon's own oom_score_adj (crun 1.8 does), by which the kernel
// would spare it for ever. The pid is that of a child that nobody has reaped yet; one that is over needs nothing.
func setOOMScoreAdj(pid int, want *int) error {
	if want == nil {
		return nil
	}
	path := fmt.Sprintf("/proc/%d/oom_score_adj", pid)
	b, err := os.ReadFile(path)
	if err != nil || strings.TrimSpace(string(b)) == strconv.Itoa(*want) {
		return nil //nolint:nilerr // gone
	}
	if err := os.WriteFile(path, []byte(strconv.Itoa(*want)), 0); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func newExecID() string {
	id := make([]byte, 16)
	rand.Read(id) // never fails (crypto/rand)
	return hex.EncodeToString(id)
}

// canExec says why no process can be started in the container, if so.
func (t *Task) canExec() error {
	switch s := t.Status(); {
	case s.Paused:
		return fmt.Errorf("exec in container %s: it is paused: %w", t.id, errdefs.ErrFailedPrecondition)
	case s.State != Running:
		return fmt.Errorf("exec in container %s: it is %s, not running: %w", t.id, s.State, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// follow waits for the exec's end. Its status has no other keeper than whoever waits for it, so its record is forgotten at once.
func (e *Exec) follow() {
	select {
	case <-e.watch.Done():
	case <-e.t.m.closing:
		return
	}
	x, err := e.watch.Exit()
	e.exit, _ = exitOf(x, err)
	e.group.ended()
	if err := e.t.m.o.Exits.Forget(e.key); err != nil {
		e.t.log().Error(err, "forget exit record", "container", e.t.id, "exec", e.id)
	}
	close(e.done)
}

// Done is closed when the process has ended.
func (e *Exec) Done() <-chan struct{} { return e.done }

// Exit is how it ended. It may be called once Done is closed.
func (e *Exec) Exit() Exit { return e.exit }

// Pid returns the process' id in the daemon's pid namespace.
func (e *Exec) Pid() int { return e.pid }

// Kill ends the process and all that it has started, and waits for the process to be gone (bounded).
func (e *Exec) Kill() {
	if err := e.watch.Signal(unix.SIGKILL); err != nil && !errdefs.IsNotFound(err) {
		e.t.log().Error(err, "kill exec", "container", e.t.id, "exec", e.id)
	}
	e.killTree()
	select {
	case <-e.done:
	case <-time.After(killTimeout):
	}
	e.killTree() // what was forked while we looked
}

// killTree ends the descendants: the members of the sub-cgroup where there is one, else of the session. runc makes the process
// the leader of a new session (setns_init_linux.go), and those who leave it are few.
func (e *Exec) killTree() {
	if e.group != nil {
		e.group.kill()
		return
	}
	if e.t.cgroup == nil {
		return
	}
	if err := e.t.cgroup.KillSession(e.pid); err != nil {
		e.t.log().Error(err, "kill what an exec has started", "container", e.t.id, "exec", e.id)
	}
}

// Close forgets the exec. It kills nothing: what it left running in the background goes on, as it would in a shell.
func (e *Exec) Close() {
	e.t.mu.Lock()
	delete(e.t.execs, e.id)
	e.t.mu.Unlock()
	e.t.dropGroup(e.group)
}

// endExecs kills the execs of a container that goes away; in a pid namespace of its own the kernel has done so already.
func (t *Task) endExecs() {
	t.mu.Lock()
	execs := make([]*Exec, 0, len(t.execs))
	for _, e := range t.execs {
		execs = append(execs, e)
	}
	t.mu.Unlock()
	for _, e := range execs {
		select {
		case <-e.done:
		default:
			e.Kill()
		}
	}
}
