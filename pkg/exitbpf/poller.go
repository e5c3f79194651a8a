// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// poller is one epoll set for all pidfds. The set itself is watched by the Go
// runtime's own poller, so waiting costs neither a thread nor a goroutine per
// process. Each descriptor reports once and is silent until armed again: what
// stays readable for ever (a corpse's pidfd) cannot make the loop spin.
type poller struct {
	file *os.File
	conn syscall.RawConn
	done chan struct{} // closed by the loop
	// closed is set first: RawConn's own error for it is none of os' or net's.
	closed atomic.Bool
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll set: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // lets os.NewFile hand it to the runtime's poller
		_ = unix.Close(fd)
		return nil, fmt.Errorf("create epoll set: %w", err)
	}
	f := os.NewFile(uintptr(fd), "exitbpf-epoll")
	conn, err := f.SyscallConn()
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("create epoll set: %w", err)
	}
	return &poller{file: f, conn: conn, done: make(chan struct{})}, nil
}

func (p *poller) control(op, fd int) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(fd)}
	var err error
	// Through the RawConn, so that a closed and reused number is never meant.
	if e := p.conn.Control(func(ep uintptr) { err = unix.EpollCtl(int(ep), op, fd, &ev) }); e != nil {
		return p.failed(e)
	}
	return err
}

func (p *poller) add(fd int) error { return p.control(unix.EPOLL_CTL_ADD, fd) }
func (p *poller) arm(fd int) error { return p.control(unix.EPOLL_CTL_MOD, fd) }

// wait fills events; it fails with os.ErrClosed once the poller is closed.
func (p *poller) wait(events []unix.EpollEvent) (int, error) {
	var n int
	var err error
	e := p.conn.Read(func(ep uintptr) bool {
		n, err = unix.EpollWait(int(ep), events, 0)
		if err == unix.EINTR {
			n, err = 0, nil
		}
		return n > 0 || err != nil
	})
	if e != nil {
		return 0, p.failed(e)
	}
	return n, err
}

func (p *poller) failed(err error) error {
	if p.closed.Load() {
		return os.ErrClosed
	}
	return err
}

// close ends the loop and waits for it.
func (p *poller) close() error {
	p.closed.Store(true)
	err := p.file.Close()
	<-p.done
	return err
}
