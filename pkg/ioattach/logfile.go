// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// reopenEvery bounds how often a log file that fails with anything but a full disk is opened again.
	reopenEvery = time.Second
	// chainWait is how long ReopenLog waits for the end of a line over 16 KiB that is half written,
	// so that all its parts are in one file.
	chainWait = 100 * time.Millisecond
)

// logFile is the CRI log both sources of a container append whole lines to.
//
// A failing disk never stops the container: what cannot be written is counted and dropped, and
// each later batch tries again.
type logFile struct {
	path  string
	stats *counters

	mu      sync.Mutex
	fd      int
	swap    *logSwap // a ReopenLog some source has not followed yet
	failing bool
	retryAt time.Time // when a failing file may be opened again
}

// logSwap is the old file of a ReopenLog, while a source is in the middle of a long line there.
type logSwap struct {
	fd   int
	done chan struct{}
}

// openLogFile opens path as containerd and the kubelet expect it: appended to, 0640, no
// symbolic link followed in its last element. Missing parent directories are made 0755.
func openLogFile(path string, stats *counters) (*logFile, error) {
	fd, err := openLog(path)
	if errors.Is(err, unix.ENOENT) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, fmt.Errorf("make log directory: %w", err)
		}
		fd, err = openLog(path)
	}
	if err != nil {
		return nil, err
	}
	return &logFile{path: path, stats: stats, fd: fd}, nil
}

func openLog(path string) (int, error) {
	// O_NONBLOCK so that a FIFO somebody planted there cannot hold us up; it means nothing to a file.
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0o640)
	if err != nil {
		return -1, &os.PathError{Op: "open log", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		_ = unix.Close(fd)
		return -1, errors.Join(fmt.Errorf("log %s is not a regular file", path), err)
	}
	return fd, nil
}

// take writes the lane's batch to the log and leaves the lane loaded, with nothing left. The
// caller holds s.mu.
func (g *logFile) take(l *lane, s *source) {
	head := appendHead(make([]byte, 0, headLen), l.at(), s.name)
	for len(l.data()) > 0 {
		g.step(l, s, head)
	}
}

// step writes one outputful of the batch.
func (g *logFile) step(l *lane, s *source, head []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	rec, data, tail := s.st.rec, l.data(), s.st.rec.tail(s.idx)

	f := frame(l.outBuf(), head, tail, data, laneOut, s.open, s.swap != nil)
	l.out = f.out
	switch {
	case f.more:
		l.h.nextTail.Store(rec.replace(s.idx, nil))
		l.h.nextPos.Store(l.h.pos.Load() + uint64(f.used))
	default:
		rest := data[f.used:]
		if f.tailUsed || len(tail) == 0 {
			l.h.nextTail.Store(rec.replace(s.idx, rest))
		} else {
			l.h.nextTail.Store(rec.extend(s.idx, rest))
		}
		l.h.nextPos.Store(l.h.n.Load())
	}
	if len(f.out) > 0 {
		fd := g.fileLocked(s)
		g.journalLocked(l, fd)
		g.writeLocked(fd, f.out)
	}
	l.commit(s)
	s.open = f.open
	g.followSwapLocked(s)
}

// flush writes the unterminated rest of s as the stream's last line. The caller holds s.mu.
func (g *logFile) flush(l *lane, s *source) {
	tail := s.st.rec.tail(s.idx)
	if len(tail) == 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	l.beginRest(s.token)
	l.out = frameRest(l.outBuf(), appendHead(nil, l.at(), s.name), tail)
	l.h.nextTail.Store(s.st.rec.replace(s.idx, nil))
	fd := g.fileLocked(s)
	g.journalLocked(l, fd)
	g.writeLocked(fd, l.out)
	l.commit(s)
	l.finish()
	s.open = false
	g.followSwapLocked(s)
}

// fileLocked is where s writes.
func (g *logFile) fileLocked(s *source) int {
	if s.swap != nil {
		return s.swap.fd
	}
	return g.fd
}

// journalLocked notes where l.out is about to be appended.
func (g *logFile) journalLocked(l *lane, fd int) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		st = unix.Stat_t{}
	}
	l.h.logDev.Store(st.Dev)
	l.h.logIno.Store(st.Ino)
	l.h.logOff.Store(uint64(st.Size))
	l.h.outLen.Store(uint64(len(l.out)))
	l.h.phase.Store(phaseWriting)
}

// writeLocked appends whole lines, dropping and counting those the file does not take.
func (g *logFile) writeLocked(fd int, out []byte) {
	done, err := writeAll(fd, out)
	if err == nil {
		g.failing = false
		return
	}
	if whole := bytes.LastIndexByte(out[:done], '\n') + 1; whole < done {
		// Take the torn line back, else the next one would be glued to it.
		takeBack(fd, int64(done-whole))
		done = whole
	}
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) && fd == g.fd && g.renewLocked() {
		var more int
		more, err = writeAll(g.fd, out[done:])
		done += bytes.LastIndexByte(out[done:done+more], '\n') + 1
		if err == nil {
			g.failing = false
			return
		}
	}
	g.failing = true
	g.stats.logErrors.Add(1)
	g.stats.droppedBytes.Add(uint64(len(out) - done))
	g.stats.droppedLines.Add(uint64(bytes.Count(out[done:], []byte{'\n'})))
}

// takeBack removes the last n bytes; failing that, it ends the torn line.
func takeBack(fd int, n int64) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	if err == nil {
		err = unix.Ftruncate(fd, st.Size-n)
	}
	if err != nil {
		_, _ = writeAll(fd, []byte{'\n'})
	}
}

// renewLocked opens the file again, at most once in reopenEvery.
func (g *logFile) renewLocked() bool {
	now := time.Now()
	if now.Before(g.retryAt) {
		return false
	}
	g.retryAt = now.Add(reopenEvery)
	fd, err := openLog(g.path)
	if err != nil {
		return false
	}
	_ = unix.Close(g.fd)
	g.fd = fd
	return true
}

// reopen makes every line that begins from now on go to the file that is at path then. A source
// in the middle of a long line finishes it in the old file first.
func (g *logFile) reopen(st *Streams) error {
	fd, err := openLog(g.path)
	if err != nil {
		return err
	}
	g.mu.Lock()
	g.endSwapLocked(st) // an earlier call still waits: it is overtaken
	sw := &logSwap{fd: g.fd, done: make(chan struct{})}
	g.fd, g.swap = fd, sw
	for _, s := range st.sources {
		if s.open {
			s.swap = sw
		}
	}
	g.closeIfFollowedLocked(st)
	g.mu.Unlock()

	late := time.NewTimer(chainWait)
	defer late.Stop()
	select {
	case <-sw.done:
	case <-late.C:
		g.mu.Lock()
		if g.swap == sw {
			g.endSwapLocked(st)
		}
		g.mu.Unlock()
	}
	return nil
}

// followSwapLocked lets s go to the new file once its long line has ended.
func (g *logFile) followSwapLocked(s *source) {
	if s.swap != nil && !s.open {
		s.swap = nil
		g.closeIfFollowedLocked(s.st)
	}
}

// closeIfFollowedLocked closes the old file when nobody writes to it any more.
func (g *logFile) closeIfFollowedLocked(st *Streams) {
	for _, s := range st.sources {
		if s.swap != nil {
			return
		}
	}
	g.endSwapLocked(st)
}

func (g *logFile) endSwapLocked(st *Streams) {
	if g.swap == nil {
		return
	}
	for _, s := range st.sources {
		s.swap = nil
	}
	_ = unix.Close(g.swap.fd)
	close(g.swap.done)
	g.swap = nil
}

func (g *logFile) close(st *Streams) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.endSwapLocked(st)
	fd := g.fd
	g.fd = -1
	return unix.Close(fd)
}

// writeAll returns how many bytes went out before the error.
func writeAll(fd int, b []byte) (int, error) {
	done := 0
	for done < len(b) {
		n, err := unix.Write(fd, b[done:])
		if n > 0 {
			done += n
		}
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return done, err
		case n == 0:
			return done, unix.EIO
		}
	}
	return done, nil
}
