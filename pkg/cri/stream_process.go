// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"fmt"
	"io"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"github.com/embedcri/embedcri/pkg/ioattach"
	"github.com/embedcri/embedcri/pkg/sandbox"
)

// processes connects a session to a container. ctx ends when the client is gone.
type processes struct {
	c    container
	opts remotecommand.Options
}

var (
	_ remotecommand.Executor = processes{}
	_ remotecommand.Attacher = processes{}
)

// ExecInContainer runs a command and returns when it has ended. A code other than 0 is returned as the error type by which
// cri-streaming tells it from a failure to run anything, and which it passes on as the exit code that kubectl ends with.
func (p processes) ExecInContainer(ctx context.Context, _, _, _ string, cmd []string, in io.Reader, out, err io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	defer endSoon(ctx)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends sizes
	in, out, err = p.wanted(in, out, err)
	code, failed := p.c.Exec(ctx, sandbox.ExecRequest{
		Cmd: cmd, TTY: tty, Stdin: in, Stdout: out, Stderr: err, Resize: sizes(ctx, resize),
	})
	if failed != nil {
		return failed
	}
	if code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("exit code %d", code), Code: int(code)}
	}
	return nil
}

// AttachContainer connects a client to a container's own streams, until either of them ends.
func (p processes) AttachContainer(ctx context.Context, _, _, _ string, in io.Reader, out, err io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	defer endSoon(ctx)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in, out, err = p.wanted(in, out, err)
	return p.c.Attach(ctx, ioattach.Client{Stdin: in, Stdout: out, Stderr: err, TTY: tty, Resize: sizes(ctx, resize)})
}

// wanted drops the streams that the session did not ask for. Over WebSocket all of them exist; an stdin that nobody wanted is at
// its end at once, which would end the container's own.
func (p processes) wanted(in io.Reader, out, err io.WriteCloser) (io.Reader, io.WriteCloser, io.WriteCloser) {
	if !p.opts.Stdin {
		in = nil
	}
	if !p.opts.Stdout {
		out = nil
	}
	if !p.opts.Stderr {
		err = nil
	}
	return in, out, err
}

// sizes turns the protocol's terminal sizes into ours, until ctx is done or there are no more. Nil stays nil: without a terminal
// there is nothing to resize.
func sizes(ctx context.Context, in <-chan remotecommand.TerminalSize) <-chan ioattach.Size {
	if in == nil {
		return nil
	}
	out := make(chan ioattach.Size)
	go func() {
		defer close(out)
		for {
			select {
			case s, ok := <-in:
				if !ok {
					return
				}
				// A client whose window has no size yet says 0 by 0, which would make programs draw nothing.
				if s.Width == 0 || s.Height == 0 {
					continue
				}
				select {
				case out <- ioattach.Size{Width: s.Width, Height: s.Height}:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}
