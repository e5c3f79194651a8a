// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// stdinEnd is our end of the process's stdin: a FIFO's write end or a copy of the pty master.
// Guarded by Streams.mu.
type stdinEnd struct {
	fd    int                   // -1: none, or closed
	files map[*os.File]struct{} // one a client: each can be closed while it waits for room
}

// openStdin returns a descriptor for one client.
func (st *Streams) openStdin() (*os.File, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.stdin.fd < 0 {
		return nil, fmt.Errorf("stdin of %s is closed: %w", st.dir, errdefs.ErrFailedPrecondition)
	}
	fd, err := unix.FcntlInt(uintptr(st.stdin.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), st.path(stdinName)) // not blocking, so in the runtime's poller
	if st.stdin.files == nil {
		st.stdin.files = map[*os.File]struct{}{}
	}
	st.stdin.files[f] = struct{}{}
	return f, nil
}

func (st *Streams) putStdin(f *os.File) {
	st.mu.Lock()
	delete(st.stdin.files, f)
	st.mu.Unlock()
	_ = f.Close()
}

// closeStdin closes our end and those of all clients. forGood makes the process see the end of
// its stdin, now and after a restart.
func (st *Streams) closeStdin(forGood bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.gone {
		st.closeStdinLocked(forGood)
	}
}

func (st *Streams) closeStdinLocked(forGood bool) {
	if forGood && !st.opts.TTY && st.rec != nil {
		st.rec.closeStdin()
	}
	if st.tty >= 0 {
		_ = unix.Close(st.tty)
		st.tty = -1
	}
	if st.stdin.fd >= 0 {
		if !st.opts.TTY && !st.opts.Exec {
			if forGood {
				st.hub.letGo(st.path(stdinName))
			} else {
				st.hub.forgetHeld(st.path(stdinName))
			}
		}
		_ = unix.Close(st.stdin.fd)
		st.stdin.fd = -1
	}
	for f := range st.stdin.files {
		_ = f.Close()
	}
	st.stdin.files = nil
}

// copyStdin copies a client's stdin to the process until either ends. It returns the error of
// the client's side: a client that sent all it has is nil, one that broke off is not. What the
// process does not take is swallowed, so that the client's other streams get through.
func (st *Streams) copyStdin(in io.Reader, stop <-chan struct{}) error {
	select {
	case <-st.started: // before that a terminal has no stdin
	case <-stop:
		return nil
	}
	to, err := st.openStdin()
	if err != nil {
		_, err = io.Copy(io.Discard, in)
		return err
	}
	defer st.putStdin(to)
	if st.closesStdin() {
		defer st.closeStdin(true)
	}
	// A plain loop: io.Copy could not tell whose error it was, and would try splice(2).
	buf := make([]byte, 32<<10)
	for {
		n, err := in.Read(buf)
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				st.putStdin(to)
				_, err = io.Copy(io.Discard, in)
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-stop:
			return nil
		default:
		}
	}
}

// closesStdin says if the end of one client's stdin is the end of the process's. It never is
// for a terminal: there the user types ^D.
func (st *Streams) closesStdin() bool {
	return !st.opts.TTY && (st.opts.StdinOnce || st.opts.Exec)
}
