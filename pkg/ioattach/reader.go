// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Keys in the epoll set that are not sources.
const (
	wakeKey = iota
	timerKey
	firstKey
)

func (h *Hub) control(op, fd int, events uint32, key uint64) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(uint32(key)), Pad: int32(uint32(key >> 32))}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(h.epfd, op, fd, &ev))
}

// add begins to read s. Each readiness is handed to one reader, which arms the source again
// when it is done with it (EPOLLONESHOT): that keeps a stream in order.
func (h *Hub) add(s *source) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return errHubClosed
	}
	if s.key != 0 {
		return nil
	}
	key := h.nextKey
	if err := h.control(unix.EPOLL_CTL_ADD, s.fd, unix.EPOLLIN|unix.EPOLLONESHOT, key); err != nil {
		return err
	}
	h.nextKey++
	s.key = key
	h.sources[key] = s
	return nil
}

// arm lets the next readiness of s through, if it is still being read.
func (h *Hub) arm(s *source) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.closed || h.sources[s.key] != s {
		return
	}
	if err := h.control(unix.EPOLL_CTL_MOD, s.fd, unix.EPOLLIN|unix.EPOLLONESHOT, s.key); err != nil {
		h.log.Error(err, "Go on reading container output", "path", s.path())
	}
}

// remove ends the reading of s. It must come before its descriptor is closed: the keeper has
// the same open file, so the epoll set would not notice.
func (h *Hub) remove(s *source) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sources[s.key] != s {
		return
	}
	delete(h.sources, s.key)
	if h.closed {
		return
	}
	if err := h.control(unix.EPOLL_CTL_DEL, s.fd, 0, 0); err != nil {
		h.log.Error(err, "Stop reading container output", "path", s.path())
	}
}

// read is one reader. It takes one event at a time, so that what it gets stuck with is one
// stream only.
func (h *Hub) read() {
	events := make([]unix.EpollEvent, 1)
	for {
		n, err := unix.EpollWait(h.epfd, events, -1)
		if errors.Is(err, unix.EINTR) || n == 0 && err == nil {
			continue
		}
		if err != nil {
			panic(os.NewSyscallError("epoll_wait", err)) // EBADF, EFAULT, EINVAL: a slip of ours
		}
		switch key := uint64(uint32(events[0].Fd)) | uint64(uint32(events[0].Pad))<<32; key {
		case wakeKey:
			return
		case timerKey:
			h.tick()
		default:
			h.mu.RLock()
			s := h.sources[key]
			h.mu.RUnlock()
			if s != nil {
				h.serve(s)
			}
		}
	}
}

// serve moves one batch of s and sees to it that s is looked at again.
func (h *Hub) serve(s *source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := h.borrow()
	if l == nil {
		return
	}
	defer func() { h.lanes <- l }()
	move := s.pump
	if s.unsure {
		s.unsure = false
		move = s.sweepLocked
	}
	n, err := move(l)
	switch {
	case errors.Is(err, io.EOF):
		s.finishLocked(l)
	case errors.Is(err, errPaused):
	case errors.Is(err, unix.EAGAIN):
		h.arm(s)
	default:
		now := time.Now()
		if d := s.rate.wait(now, n, s.room, s.patience()); d > 0 && !s.tty {
			h.paceFor(s, now, d)
			return
		}
		h.arm(s)
	}
}
