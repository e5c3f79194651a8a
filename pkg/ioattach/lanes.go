// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxLeft is how many unfinished batches are kept for streams that nobody has loaded yet.
const maxLeft = 32

// openLanes makes the lanes this hub works with and sets those aside that an earlier daemon was
// killed in the middle of.
func (h *Hub) openLanes() error {
	want := h.opts.Readers + 2 // the readers', and two for Drain
	h.lanes = make(chan *lane, want)
	for i := range want + maxLeft {
		name := fmt.Sprint("lane-", i)
		_, err := os.Lstat(filepath.Join(h.opts.Dir, name))
		if err != nil && h.nLane == want {
			continue // not there and not needed
		}
		if err := h.openLane(name); err != nil {
			return err
		}
	}
	for h.nLane < want && len(h.left) > 0 {
		// Crash upon crash, and nobody came back for these.
		l := h.left[0]
		h.left = h.left[1:]
		h.log.Info("Unfinished output of a stream that was never loaded is given up", "lane", l.name, "bytes", l.h.n.Load())
		l.giveUp()
		if err := h.freeLane(l); err != nil {
			return err
		}
	}
	return nil
}

// borrow waits for a free lane; nil once the hub is closed. The caller puts it back.
func (h *Hub) borrow() *lane {
	select {
	case l := <-h.lanes:
		return l
	case <-h.done:
		return nil
	}
}

func (h *Hub) openLane(name string) error {
	l, err := openLane(h.opts.Dir, name, h.fetch(h.laneKey(name)))
	if err != nil {
		return err
	}
	h.hold(h.laneKey(name), l.pipe)
	if _, busy := l.owner(); busy {
		h.left = append(h.left, l)
		return nil
	}
	return h.freeLane(l)
}

// freeLane adds an idle lane to those in use, or removes it when there are enough.
func (h *Hub) freeLane(l *lane) error {
	h.mu.Lock()
	use := h.nLane < cap(h.lanes)
	if use {
		h.nLane++
	}
	h.mu.Unlock()
	if use {
		h.lanes <- l
		return nil
	}
	path := filepath.Join(h.opts.Dir, l.name)
	h.letGo(h.laneKey(l.name))
	err := l.close()
	for _, p := range []string{path, path + ".pipe"} {
		if e := os.Remove(p); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

func (h *Hub) laneKey(name string) string { return filepath.Join(h.opts.Dir, name) }

// forsake gives up unfinished batches of a stream that is being removed.
func (h *Hub) forsake(token uint64) error {
	var errs []error
	for _, l := range h.unfinished(token) {
		l.giveUp()
		errs = append(errs, h.freeLane(l))
	}
	return errors.Join(errs...)
}

// unfinished takes out the lanes with a batch of the stream token.
func (h *Hub) unfinished(token uint64) []*lane {
	h.mu.Lock()
	defer h.mu.Unlock()
	var found []*lane
	for i := 0; i < len(h.left); {
		if t, _ := h.left[i].owner(); t == token {
			found = append(found, h.left[i])
			h.left = append(h.left[:i], h.left[i+1:]...)
			continue
		}
		i++
	}
	return found
}

// settle finishes the batch an earlier daemon left in l for s, from whatever phase it had
// reached. A SIGKILL in the middle of it leaves a batch that can be settled again.
func (l *lane) settle(s *source) error {
	n, pos := l.h.n.Load(), l.h.pos.Load()
	if n > laneBuf || pos > n {
		return fmt.Errorf("%s holds %d bytes, %d done: corrupt", l.name, n, pos)
	}
	staged, err := unix.IoctlGetInt(l.pipe, unix.TIOCINQ) // FIONREAD
	if err != nil {
		return os.NewSyscallError("FIONREAD", err)
	}
	switch l.h.phase.Load() {
	case phaseStaging:
		if staged == 0 {
			l.finish()
			return nil
		}
		err = l.load(staged)
	case phaseReading:
		err = l.loadRest(int(n) - min(staged, int(n)))
	case phaseWriting:
		err = s.st.logf.finish(l, s)
		l.commit(s)
	case phaseCommitted:
		l.commit(s)
	}
	if err == nil {
		s.st.logf.take(l, s)
		l.finish()
	}
	return err
}

// finish completes the append the lane was in the middle of.
func (g *logFile) finish(l *lane, s *source) error {
	head := appendHead(nil, l.at(), s.name)
	tail, want := s.st.rec.tail(s.idx), int(l.h.outLen.Load())
	if l.h.rest.Load() != 0 {
		l.out = frameRest(l.outBuf(), head, tail)
	} else {
		l.out = frame(l.outBuf(), head, tail, l.data(), want, false, false).out
	}
	if len(l.out) != want {
		return fmt.Errorf("%d bytes of log were journaled but %d come out again", want, len(l.out))
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	fd, st := g.whereLocked(l.h.logDev.Load(), l.h.logIno.Load())
	if fd < 0 { // the file is gone and what was in it with it
		g.writeLocked(g.fd, l.out)
		return nil
	}
	written := min(max(st.Size-int64(l.h.logOff.Load()), 0), int64(want))
	if fd == g.fd {
		g.writeLocked(g.fd, l.out[written:])
		return nil
	}
	defer unix.Close(fd)
	_, err := writeAll(fd, l.out[written:])
	return err
}

// whereLocked finds the log file dev:ino: it is the one at path, or was renamed beside it while
// nobody was there. It returns -1 if it is neither.
func (g *logFile) whereLocked(dev, ino uint64) (int, unix.Stat_t) {
	var st unix.Stat_t
	if unix.Fstat(g.fd, &st) == nil && st.Dev == dev && st.Ino == ino {
		return g.fd, st
	}
	dir := filepath.Dir(g.path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return -1, st
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if unix.Lstat(path, &st) != nil || st.Dev != dev || st.Ino != ino {
			continue
		}
		if fd, err := openLog(path); err == nil {
			return fd, st
		}
	}
	return -1, st
}
