// SPDX-License-Identifier: Apache-2.0

package runc

import (
	"io"
	"os/exec"

	gorunc "github.com/containerd/go-runc"

	"github.com/embedcri/embedcri/pkg/ioattach"
)

// stdio hands the ends of a container's streams to the runtime, whose container inherits them. The daemon's copies are
// ioattach's to close.
type stdio struct{ ioattach.Stdio }

func (s stdio) Set(cmd *exec.Cmd) {
	// A nil *os.File in an interface is not nil: assign only what is there. os/exec opens /dev/null for the rest.
	if s.Stdio.Stdin != nil {
		cmd.Stdin = s.Stdio.Stdin
	}
	if s.Stdio.Stdout != nil {
		cmd.Stdout = s.Stdio.Stdout
	}
	if s.Stdio.Stderr != nil {
		cmd.Stderr = s.Stdio.Stderr
	}
}

func (s stdio) Close() error          { return nil }
func (s stdio) Stdin() io.WriteCloser { return nil }
func (s stdio) Stdout() io.ReadCloser { return nil }
func (s stdio) Stderr() io.ReadCloser { return nil }

// socket is the path of a console socket.
type socket string

func (s socket) Path() string { return string(s) }

// console avoids a non-nil interface around an empty path.
func console(path string) gorunc.ConsoleSocket {
	if path == "" {
		return nil
	}
	return socket(path)
}
