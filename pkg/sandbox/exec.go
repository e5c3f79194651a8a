// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/embedcri/embedcri/pkg/ioattach"
	"github.com/embedcri/embedcri/pkg/spec"
	"github.com/embedcri/embedcri/pkg/task"
)

// ExecResult is the outcome of ExecSync.
type ExecResult struct {
	Stdout, Stderr []byte
	Code           int32
}

// ExecSync runs cmd in the container to its end. timeout 0 is none; when it is over the command is killed and the error wraps
// context.DeadlineExceeded. Each of the outputs is capped at task.MaxOutput.
func (c *Container) ExecSync(ctx context.Context, cmd []string, timeout time.Duration) (ExecResult, error) {
	process, err := spec.ExecProcess(c.task.Process(), cmd, false)
	if err != nil {
		return ExecResult{}, err
	}
	r, err := c.task.ExecSync(ctx, task.ExecSync{
		Process: process, Timeout: timeout, Drain: c.p.m.o.DrainTimeout, Launch: c.launch,
	})
	if err != nil {
		return ExecResult{}, err
	}
	stages := make([]Stage, len(r.Stages))
	for i, st := range r.Stages {
		stages[i] = Stage(st)
	}
	c.p.m.execStages.add(stages)
	return ExecResult{Stdout: r.Stdout, Stderr: r.Stderr, Code: r.Exit.Code()}, nil
}

// launch waits for the pod's turn to launch a process.
func (c *Container) launch(ctx context.Context) (release func(), err error) {
	return c.p.m.launches.acquire(ctx, c.p.meta.ID)
}

// ExecRequest is a command with streams.
type ExecRequest struct {
	Cmd            []string
	TTY            bool
	Stdin          io.Reader // nil: none
	Stdout, Stderr io.WriteCloser
	Resize         <-chan ioattach.Size
}

// Exec runs a command with streams, and returns its exit code when it has ended, even if the client still holds stdin open.
func (c *Container) Exec(ctx context.Context, r ExecRequest) (int32, error) {
	process, err := spec.ExecProcess(c.task.Process(), r.Cmd, r.TTY)
	if err != nil {
		return 0, err
	}
	exit, err := c.task.ExecStream(ctx, process, task.ExecStreams{
		TTY: r.TTY, Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Resize: r.Resize, Drain: c.p.m.o.DrainTimeout,
		Launch: c.launch,
	})
	if err != nil {
		return 0, fmt.Errorf("exec: %w", err)
	}
	return exit.Code(), nil
}
