// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"errors"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// errPaused says that a source waits for its only client.
var errPaused = errors.New("paused")

// source is the reading side of one stream: a FIFO, or the pty master, which is "stdout".
type source struct {
	st    *Streams
	idx   int // 0 stdout, 1 stderr
	name  string
	token uint64
	fd    int
	room  int // capacity in bytes: the most the process can have left behind
	tty   bool
	key   uint64        // in Hub.sources; guarded by Hub.mu
	ended chan struct{} // closed at the end of the stream, or when let go of

	// Guarded by logFile.mu.
	open bool     // the last line logged is a P: the rest of it has to follow
	swap *logSwap // the rest has to go to this file

	lastRead atomic.Int64 // when output last came, UnixNano

	mu sync.Mutex // held for a batch
	// unsure: nobody may have had the FIFO open for writing when we opened it. Then it reads as
	// ended but never polls as hung up (fs/pipe.c: fifo_open sets f_pipe, pipe_poll compares it), so
	// it must be read up to where that shows.
	unsure bool
	over   bool // the stream has ended or fd is closed
	rate   pacer
}

func newSource(st *Streams, idx, fd int) *source {
	s := &source{st: st, idx: idx, name: sourceNames[idx], token: st.rec.token(idx), fd: fd, tty: st.opts.TTY,
		ended: make(chan struct{})}
	s.room = ttyRoom
	if !s.tty {
		s.room = growPipe(fd, st.hub.opts.PipeSize)
	}
	return s
}

var sourceNames = [2]string{"stdout", "stderr"}

// ttyRoom is more than a pty's buffers ever hold (64 KiB, drivers/tty/tty_buffer.c).
const ttyRoom = 64 << 10

func (s *source) path() string { return filepath.Join(s.st.dir, s.name) }

// pump moves one batch. It returns how many bytes that was, and io.EOF at the end of the
// stream, unix.EAGAIN when there is nothing now, errPaused when the client has to catch up
// first. The caller holds s.mu.
func (s *source) pump(l *lane) (int, error) {
	if s.over {
		return 0, io.EOF
	}
	n, err := 0, error(nil)
	if s.st.logf != nil {
		n, err = l.fill(s.token, s.fd)
	} else {
		n, err = readRetry(s.fd, l.buf)
	}
	switch {
	case errors.Is(err, unix.EAGAIN):
		return 0, unix.EAGAIN
	case n <= 0 || err != nil:
		// 0: no process holds the stream. EIO from a pty master: no process holds the slave.
		if err != nil && !(s.tty && errors.Is(err, unix.EIO)) {
			s.st.hub.log.Error(err, "Read container output", "path", s.path())
		}
		return 0, io.EOF
	}
	s.lastRead.Store(time.Now().UnixNano())
	paused := s.st.fanOut(s, l.buf[:n])
	if s.st.logf != nil {
		s.st.logf.take(l, s)
		l.finish()
	}
	if paused {
		return n, errPaused
	}
	return n, nil
}

// patience is the longest that s may be left alone.
func (s *source) patience() time.Duration {
	s.st.mu.Lock()
	defer s.st.mu.Unlock()
	if len(s.st.clients) > 0 {
		return paceClient
	}
	return paceMax
}

func readRetry(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// finishLocked ends the source at the end of its stream: an unterminated last line is logged,
// clients that have nothing more to come end. l is a free lane.
func (s *source) finishLocked(l *lane) {
	if s.over {
		return
	}
	if s.st.logf != nil {
		s.st.logf.flush(l, s)
	}
	s.letGoLocked(true)
	s.st.sourceEnded()
}

// end is finishLocked for a source nobody reads.
func (s *source) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.st.hub.borrow()
	if l == nil {
		return
	}
	defer func() { s.st.hub.lanes <- l }()
	s.finishLocked(l)
}

// letGoLocked closes the source's descriptor, and takes it back from the keeper if forGood.
func (s *source) letGoLocked(forGood bool) {
	if s.over {
		return
	}
	s.over = true
	close(s.ended)
	if s.fd < 0 {
		return
	}
	s.st.hub.remove(s)
	switch {
	case s.st.opts.Exec:
	case forGood:
		s.st.hub.letGo(s.path())
	default:
		s.st.hub.forgetHeld(s.path())
	}
	_ = unix.Close(s.fd)
}
