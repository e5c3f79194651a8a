// SPDX-License-Identifier: Apache-2.0

package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sort"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// server is the keeper process's state.
type server struct {
	mu   sync.Mutex
	fds  map[string]int
	stop context.CancelFunc
}

// Main runs a keeper that listens at args[0]. A second keeper for the same socket returns at
// once: the lock beside it decides.
func Main(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("keeper wants one argument, the socket's path, not %d", len(args))
	}
	runtime.GOMAXPROCS(1)
	// The program was started only to hold descriptors: give back what its packages' set-up took.
	debug.SetGCPercent(20)
	debug.FreeOSMemory()
	// SIGTERM ends it (a machine going down); what goes to a terminal's or a daemon's group does not.
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE)

	path := args[0]
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil
		}
		return os.NewSyscallError("flock", err)
	}
	// Made under another name and renamed: whoever sees the socket can connect, and the watch is
	// there before anybody can remove it.
	l, err := listen(path)
	if err != nil {
		return err
	}
	defer l.Close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	gone, err := watchRemoval(path)
	if err != nil {
		return err
	}
	defer gone.Close()
	s := &server{fds: map[string]int{}, stop: stop}
	go func() {
		waitRemoval(gone, path)
		stop()
	}()
	go s.accept(l)
	<-ctx.Done()
	return nil
}

func listen(path string) (*net.UnixListener, error) {
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	_ = os.Remove(tmp)
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: tmp, Net: "unixpacket"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(tmp, 0o600), os.Rename(tmp, path)); err != nil {
		return nil, errors.Join(err, os.Remove(tmp), l.Close())
	}
	return l, nil
}

// watchRemoval returns an inotify file on the socket's directory.
func watchRemoval(path string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	const mask = unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), mask); err != nil {
		return nil, errors.Join(os.NewSyscallError("inotify_add_watch", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "inotify"), nil
}

func waitRemoval(gone *os.File, path string) {
	buf := make([]byte, 4096)
	for {
		if _, err := os.Lstat(path); err != nil {
			return
		}
		if _, err := gone.Read(buf); err != nil {
			return
		}
	}
}

func (s *server) accept(l *net.UnixListener) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return // Main has closed it
		}
		if !sameUser(c) {
			_ = c.Close()
			continue
		}
		go s.serve(c)
	}
}

func sameUser(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	ok := false
	_ = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		ok = err == nil && int(cred.Uid) == os.Geteuid()
	})
	return ok
}

func (s *server) serve(c *net.UnixConn) {
	defer c.Close()
	buf := make([]byte, maxPacket)
	for {
		n, fds, err := receive(c, buf)
		if err != nil {
			return
		}
		answer, fd := s.handle(buf[:n], fds)
		if fd >= 0 {
			err = send(c, answer, []int{fd})
			_ = unix.Close(fd)
		} else {
			err = send(c, answer, nil)
		}
		if err != nil {
			return
		}
		if buf[1] == opStop && answer[1] == statusOK {
			s.stop()
			return
		}
	}
}

// handle owns fds and answers one request. A descriptor it returns is the caller's.
func (s *server) handle(req []byte, fds []int) ([]byte, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ok, bad := []byte{version, statusOK}, []byte{version, statusBad}
	names := decodeNames(req[2:])
	if req[1] != opHello && req[0] != version || (req[1] == opPut) != (len(fds) > 0) || len(fds) > 0 && len(fds) != len(names) {
		closeAll(fds)
		return bad, -1
	}
	switch req[1] {
	case opHello, opStop:
		return ok, -1
	case opPut:
		for i, name := range names {
			s.drop(name)
			s.fds[name] = fds[i]
		}
		return ok, -1
	case opDrop:
		for _, name := range names {
			s.drop(name)
		}
		return ok, -1
	case opGet:
		if len(names) != 1 {
			return bad, -1
		}
		fd, found := s.fds[names[0]]
		if !found {
			return []byte{version, statusMissing}, -1
		}
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return bad, -1
		}
		return ok, dup
	case opOpen:
		if len(names) != 2 {
			return bad, -1
		}
		return s.open(names[0], names[1])
	case opList:
		return append(ok, s.list(names)...), -1
	}
	return bad, -1
}

// open opens the FIFO path and holds it under name. Whoever waits to write to it goes on, and what he writes is kept, whatever becomes of
// the daemon that asked.
func (s *server) open(name, path string) ([]byte, int) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return []byte{version, statusMissing}, -1
	}
	var st unix.Stat_t
	dup := -1
	if err = unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO {
		dup, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	}
	if err != nil || dup < 0 {
		_ = unix.Close(fd)
		return []byte{version, statusBad}, -1
	}
	s.drop(name) // after the new one is open: what an earlier daemon's start has left in the FIFO stays
	s.fds[name] = fd
	return []byte{version, statusOK}, dup
}

func (s *server) drop(name string) {
	if fd, ok := s.fds[name]; ok {
		_ = unix.Close(fd)
		delete(s.fds, name)
	}
}

// list returns the names behind after[0] in order, as many as one packet takes.
func (s *server) list(after []string) []byte {
	names := make([]string, 0, len(s.fds))
	for n := range s.fds {
		if len(after) == 0 || n > after[0] {
			names = append(names, n)
		}
	}
	sort.Strings(names)
	var b []byte
	for _, n := range names {
		if len(b)+len(n) > maxNames {
			break
		}
		b = append(append(b, n...), 0)
	}
	return b
}
