// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/embedcri/embedcri/internal/cleanup"
	"github.com/embedcri/embedcri/internal/failpoint"
	"github.com/embedcri/embedcri/pkg/ioattach"
	"github.com/embedcri/embedcri/pkg/task/internal/runc"
)

// Spec describes a task to make.
type Spec struct {
	ID      string // 64 hex digits, never used before
	Handler string // which runtime
	OCI     *specs.Spec
	Streams ioattach.Options
}

// Create has the runtime make the container and park its init, which is watched before Create returns. The caller has made the
// record's directory and mounted Rootfs. On error nothing is left but those two.
//
// A command that the runtime cannot find or execute is not an error here: the container exists, and its Start fails with the
// runtime's words and leaves it Exited, so that people find the reason where they look for it.
func (m *Manager) Create(ctx context.Context, s Spec) (_ *Task, err error) {
	t, err := m.newTask(s.ID, s.Handler, s.OCI)
	if err != nil {
		return nil, err
	}
	var undo cleanup.Stack
	defer undo.OnError(&err)
	err = failpoint.TaskCreating.Do(func() error {
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.noteLocked(func(st *Status) {
			*st = Status{State: Creating, CreatedAt: time.Now(), BootID: m.bootID}
		})
	})
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(t.dir, 0o711); err != nil {
		return nil, fmt.Errorf("make bundle: %w", err)
	}
	if err := failpoint.TaskBundle.Do(func() error { return writeSpec(t.dir, s.OCI) }); err != nil {
		return nil, err
	}
	var streams *ioattach.Streams
	undo.Add("streams", func() error {
		if streams == nil {
			return m.o.Streams.Remove(t.dir)
		}
		return streams.Remove() // which closes this daemon's ends, too
	})
	err = failpoint.TaskStreams.Do(func() (err error) {
		streams, err = m.o.Streams.Create(t.dir, s.Streams)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("create streams: %w", err)
	}
	t.streams.Store(streams)
	stdio, err := streams.Stdio()
	if err != nil {
		return nil, fmt.Errorf("open streams: %w", err)
	}

	defer m.o.Reaper.Launch()()
	var pid int
	err = failpoint.RuntimeCreate.Do(func() (err error) {
		pid, err = t.runtime.Create(ctx, t.id, t.dir, stdio)
		return err
	})
	if code, ok := startFailure(err); ok {
		if serr := streams.Started(); serr != nil {
			return nil, errors.Join(err, serr)
		}
		return t, t.apply(evCreated, func(st *Status) { st.StartError = &StartError{Code: code, Message: err.Error()} })
	}
	undo.Add("runtime create", func() error { return t.deleteRuntime(context.WithoutCancel(ctx)) })
	if err != nil {
		return nil, err
	}
	if err := streams.Started(); err != nil {
		return nil, fmt.Errorf("take over streams: %w", err)
	}
	undo.Add("watch", func() error { return t.m.o.Exits.Forget(t.key) })
	if err := failpoint.TaskFollow.Do(func() error { return t.follow(pid) }); err != nil {
		return nil, err
	}
	err = failpoint.TaskCreated.Do(func() error { return t.apply(evCreated, func(st *Status) { st.Pid = pid }) })
	if err != nil {
		return nil, err
	}
	return t, nil
}

// startFailure tells whether err of a create means that there is no program to run, and the exit code that shells give to that:
// 127 for a command that is not found, 126 for one that cannot be executed (POSIX, Shell Command Language, 2.8.2).
func startFailure(err error) (code uint8, ok bool) {
	switch {
	case errors.Is(err, runc.ErrCommandNotFound):
		return 127, true
	case errors.Is(err, runc.ErrCommandNotExecutable):
		return 126, true
	}
	return 0, false
}
