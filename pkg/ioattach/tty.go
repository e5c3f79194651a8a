// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/console"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// consoleTimeout bounds the wait for the runtime's message, which it has sent before it returned.
const consoleTimeout = 5 * time.Second

// Size is a terminal's, in characters.
type Size struct{ Width, Height uint16 }

// consoleSocket is where an OCI runtime sends the pty master: it connects to path and sends one
// message with the descriptor (runc, docs/terminals.md, "detached").
type consoleSocket struct {
	path string
	tmp  string // a directory to remove, if dir was too long
	l    *net.UnixListener
}

// newConsoleSocket listens in dir, or in a temporary directory where dir is too long for the 108
// bytes of sockaddr_un.
func newConsoleSocket(dir string) (*consoleSocket, error) {
	c := &consoleSocket{}
	if len(dir) > 80 {
		tmp, err := os.MkdirTemp("", "embedcri-tty-")
		if err != nil {
			return nil, err
		}
		c.tmp, dir = tmp, tmp
	}
	for {
		c.path = filepath.Join(dir, "tty-"+rand.Text()[:10])
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: c.path, Net: "unix"})
		if errors.Is(err, unix.EADDRINUSE) {
			continue
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("console socket: %w", err), c.removeTmp())
		}
		c.l = l
		return c, os.Chmod(c.path, 0o600)
	}
}

// removeConsoleSockets removes what a killed daemon left in dir.
func removeConsoleSockets(dir string) error {
	paths, err := filepath.Glob(filepath.Join(dir, "tty-*"))
	for _, p := range paths {
		err = errors.Join(err, os.Remove(p))
	}
	return err
}

func (c *consoleSocket) removeTmp() error {
	if c.tmp == "" {
		return nil
	}
	return os.RemoveAll(c.tmp)
}

func (c *consoleSocket) close() {
	_ = c.l.Close() // removes the socket
	_ = c.removeTmp()
}

// receive returns the pty master that was sent.
func (c *consoleSocket) receive() (int, error) {
	if err := c.l.SetDeadline(time.Now().Add(consoleTimeout)); err != nil {
		return -1, err
	}
	conn, err := c.l.AcceptUnix()
	if err != nil {
		return -1, fmt.Errorf("runtime did not connect: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(consoleTimeout)); err != nil {
		return -1, err
	}
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*4))
	_, oobn, _, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return -1, fmt.Errorf("receive pty: %w", err)
	}
	fds, err := rights(oob[:oobn])
	if err == nil && len(fds) != 1 {
		err = fmt.Errorf("runtime sent %d descriptors, want 1", len(fds))
	}
	if err == nil {
		// Anything but a terminal would make the hub read from the unknown.
		if _, err = unix.IoctlGetTermios(fds[0], unix.TCGETS); err == nil {
			err = unix.SetNonblock(fds[0], true)
		}
	}
	if err != nil {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		return -1, fmt.Errorf("receive pty: %w", err)
	}
	return fds[0], nil
}

func rights(oob []byte) ([]int, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var fds []int
	for _, m := range msgs {
		got, err := unix.ParseUnixRights(&m)
		if err != nil {
			return fds, err
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

// takeConsole gets the pty master from the runtime.
func (st *Streams) takeConsole() error {
	st.mu.Lock()
	console := st.console
	st.mu.Unlock()
	if console == nil {
		return fmt.Errorf("streams are closed: %w", errdefs.ErrFailedPrecondition)
	}
	fd, err := console.receive()
	if err != nil {
		return err
	}
	if !st.opts.Exec {
		st.hub.hold(st.sources[0].path(), fd)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.sources[0].fd = fd
	st.setTTYLocked(fd)
	if st.size != nil {
		return st.resizeLocked(*st.size)
	}
	return nil
}

// setTTYLocked gives the streams their own copy of the master: a source may be stuck in a batch when
// a resize has to get through.
func (st *Streams) setTTYLocked(master int) {
	if master < 0 {
		return
	}
	dup, err := unix.FcntlInt(uintptr(master), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		st.hub.log.Error(err, "Copy the pty master", "dir", st.dir)
		return
	}
	st.tty = dup
	if st.opts.Stdin {
		if st.stdin.fd, err = unix.FcntlInt(uintptr(master), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			st.hub.log.Error(err, "Copy the pty master", "dir", st.dir)
		}
	}
}

// Resize sets the terminal's size; before Started it is remembered. errdefs.ErrFailedPrecondition
// without a terminal.
func (st *Streams) Resize(width, height uint16) error {
	if !st.opts.TTY {
		return fmt.Errorf("resize %s: no terminal: %w", st.dir, errdefs.ErrFailedPrecondition)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	size := Size{Width: width, Height: height}
	st.size = &size
	return st.resizeLocked(size)
}

func (st *Streams) resizeLocked(size Size) error {
	if st.tty < 0 {
		select {
		case <-st.started:
			return fmt.Errorf("resize %s: terminal is closed: %w", st.dir, errdefs.ErrFailedPrecondition)
		default:
			return nil
		}
	}
	c, err := console.ConsoleFromFile(ptyMaster(st.tty))
	if err != nil {
		return fmt.Errorf("resize %s: %w", st.dir, err)
	}
	return os.NewSyscallError("TIOCSWINSZ", c.Resize(console.WinSize{Width: size.Width, Height: size.Height}))
}

// ptyMaster lends a descriptor to the console library, which only asks it for its number. Our own readers and writers use the
// descriptor itself, as splice and epoll do.
type ptyMaster int

func (m ptyMaster) Read(b []byte) (int, error)  { return unix.Read(int(m), b) }
func (m ptyMaster) Write(b []byte) (int, error) { return unix.Write(int(m), b) }
func (m ptyMaster) Close() error                { return nil }
func (m ptyMaster) Fd() uintptr                 { return uintptr(m) }
func (m ptyMaster) Name() string                { return "ptmx" }
