// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Dial connects to a TCP address inside the network namespace pinned at path. network is "tcp",
// "tcp4" or "tcp6"; the host is an IP address or "localhost", which is tried as 127.0.0.1, then
// ::1. Only the socket is made inside: a socket keeps its namespace, so connecting and waiting need
// no thread there. ctx bounds it all. Port forwarding is what this is for.
func Dial(ctx context.Context, path, network, addr string) (net.Conn, error) {
	targets, err := parseTargets(network, addr)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, t := range targets {
		conn, err := dial(ctx, path, t)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, fmt.Errorf("dial %s in %s: %w", t, path, err))
	}
	return nil, errors.Join(errs...)
}

func parseTargets(network, addr string) ([]netip.AddrPort, error) {
	v4, v6 := network == "tcp" || network == "tcp4", network == "tcp" || network == "tcp6"
	if !v4 && !v6 {
		return nil, fmt.Errorf("dial: unknown network %q: %w", network, errdefs.ErrInvalidArgument)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("dial: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	hosts := []string{host}
	if host == "localhost" {
		hosts = []string{"127.0.0.1", "::1"}
	}
	var out []netip.AddrPort
	for _, h := range hosts {
		t, err := netip.ParseAddrPort(net.JoinHostPort(h, port))
		if err != nil {
			return nil, fmt.Errorf("dial: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		t = netip.AddrPortFrom(t.Addr().Unmap(), t.Port())
		if (t.Addr().Is4() && v4) || (t.Addr().Is6() && v6) {
			out = append(out, t)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("dial: %s is no %s address: %w", addr, network, errdefs.ErrInvalidArgument)
	}
	return out, nil
}

func dial(ctx context.Context, path string, to netip.AddrPort) (net.Conn, error) {
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
	if to.Addr().Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	fd := -1
	err := Do(path, func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		return err
	})
	if err != nil {
		return nil, err
	}
	// A non-blocking descriptor goes to the runtime's poller; FileConn makes a duplicate.
	f := os.NewFile(uintptr(fd), to.String())
	defer f.Close()
	if err := connect(ctx, f, sa); err != nil {
		return nil, err
	}
	return net.FileConn(f)
}

// connect is connect(2) on a non-blocking socket, given up when ctx ends.
func connect(ctx context.Context, f *os.File, sa unix.Sockaddr) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()

	var started bool
	var failed error
	err = raw.Write(func(fd uintptr) (done bool) {
		if !started {
			started = true
			failed = unix.Connect(int(fd), sa)
			// EINPROGRESS: it goes on by itself, and the socket turns writable at the end.
			return !errors.Is(failed, unix.EINPROGRESS) && !errors.Is(failed, unix.EINTR)
		}
		failed = nil
		errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil {
			failed = err
		} else if errno != 0 {
			failed = unix.Errno(errno)
		} else if _, err := unix.Getpeername(int(fd)); errors.Is(err, unix.ENOTCONN) {
			// The poller may wake us for the HUP that a socket shows before connect(2).
			return false
		}
		return true
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(err, failed)
}
