// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/embedcri/embedcri/pkg/ioattach"
)

// ExecStreams are the client's ends of an exec's streams. Nil ones are not connected.
type ExecStreams struct {
	TTY            bool
	Stdin          io.Reader
	Stdout, Stderr io.WriteCloser // with a TTY there is only Stdout
	Resize         <-chan ioattach.Size
	Drain          time.Duration // how long output is waited for once the process has ended, if something still holds it
	Launch         Launch
}

// ExecStream runs process with streams. It returns when the process has ended and the client has its output, even if the client
// still holds stdin open.
//
// If ctx ends before, because the client has gone, the process keeps running, as users know it from other runtimes: its stdin
// ends, what it prints is dropped, and a terminal hangs up (SIGHUP to its foreground processes). It ends with its container at
// the latest.
func (t *Task) ExecStream(ctx context.Context, process *specs.Process, s ExecStreams) (*Exit, error) {
	if err := t.canExec(); err != nil {
		return nil, err
	}
	streams, err := t.m.o.Streams.Create(filepath.Join(t.dir, "exec-"+newExecID()), ioattach.Options{
		TTY: s.TTY, Stdin: s.Stdin != nil, Exec: true, UID: int(process.User.UID), GID: int(process.User.GID),
	})
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", t.id, err)
	}
	// The client joins before there is a process: what that prints is the client's, however soon it is over.
	client, err := streams.Join(ioattach.Client{Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr, TTY: s.TTY, Resize: s.Resize})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("exec in container %s: %w", t.id, err), streams.Remove())
	}
	actx, detach := context.WithCancel(ctx)
	defer detach()
	attached := make(chan error, 1)
	go func() { attached <- client.Serve(actx) }()
	e, err := t.startStream(ctx, process, streams, s.Launch)
	if err != nil {
		detach()
		<-attached
		return nil, errors.Join(err, streams.Remove())
	}
	select {
	case <-e.Done():
	case <-ctx.Done():
		t.leave(e, streams, s.TTY)
		return nil, fmt.Errorf("exec in container %s: %w", t.id, context.Cause(ctx))
	case <-t.m.closing:
		return nil, errors.Join(fmt.Errorf("exec in container %s: the daemon is stopping: %w", t.id, errdefs.ErrUnavailable), streams.Close())
	}
	defer e.Close()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.Drain)
	streams.Drain(drain)
	cancel()
	err = <-attached // the client gets all of it, at its own pace; ctx ends with its connection
	exit := e.Exit()
	if rerr := streams.Remove(); rerr != nil {
		t.log().Error(rerr, "remove exec's streams", "container", t.id, "exec", e.id)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("exec in container %s: its output has not been delivered: %w", t.id, err)
	}
	return &exit, nil
}

func (t *Task) startStream(ctx context.Context, process *specs.Process, streams *ioattach.Streams, launch Launch) (*Exec, error) {
	stdio, err := streams.Stdio()
	if err != nil {
		return nil, err
	}
	release, err := launch.wait(ctx)
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", t.id, err)
	}
	defer release()
	e, err := t.Exec(ctx, process, stdio)
	if err != nil {
		return nil, err
	}
	if err := streams.Started(); err != nil {
		e.Kill()
		e.Close()
		return nil, fmt.Errorf("exec in container %s: %w", t.id, err)
	}
	return e, nil
}

// leave lets an exec go on without its client.
func (t *Task) leave(e *Exec, streams *ioattach.Streams, tty bool) {
	if tty {
		if err := streams.Remove(); err != nil {
			t.log().Error(err, "hang up", "container", t.id, "exec", e.id)
		}
	}
	t.m.wg.Go(func() {
		select {
		case <-e.Done():
		case <-t.m.closing:
			return
		}
		e.Close()
		if err := streams.Remove(); err != nil { // idempotent
			t.log().Error(err, "remove exec's streams", "container", t.id, "exec", e.id)
		}
	})
}
