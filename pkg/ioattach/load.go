// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Load opens the streams an earlier daemon created in dir, with the options it used, and goes on
// where it stopped: what the process has written meanwhile is in the log soon, in order and
// once, even if that daemon was killed in the middle of a batch. It does not matter whether the
// process still lives. errdefs.ErrNotFound if dir has no streams.
func (h *Hub) Load(dir string, o Options) (_ *Streams, err error) {
	st, err := h.newStreams(dir, o)
	if err != nil {
		return nil, err
	}
	if o.Exec {
		return nil, fmt.Errorf("exec streams end with their daemon: %w", errdefs.ErrInvalidArgument)
	}
	st.rec, err = openRecord(st.path(recordName))
	if errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("streams in %s: %w", dir, errdefs.ErrNotFound)
	}
	if err == nil {
		close(st.started)
		err = st.load()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load streams in %s: %w", dir, err), st.Close())
	}
	return st, nil
}

func (st *Streams) load() (err error) {
	if st.opts.LogPath != "" {
		if st.logf, err = openLogFile(st.opts.LogPath, &st.hub.stats); err != nil {
			return err
		}
	}
	held := map[string]int{}
	for i := range sourceNames {
		if st.opts.TTY && i > 0 {
			break
		}
		path := st.path(sourceNames[i])
		fd := st.hub.fetch(path)
		if fd < 0 && !st.opts.TTY {
			if fd, err = reopenFIFO(path, unix.O_RDONLY|unix.O_NONBLOCK); err != nil {
				return err
			}
		}
		s := newSource(st, i, fd)
		s.unsure = !st.opts.TTY
		st.sources = append(st.sources, s)
		if fd >= 0 {
			held[path] = fd
		}
	}
	if st.rec.stdinClosed() {
		st.hub.letGo(st.path(stdinName)) // lest that daemon died before it could
	}
	if st.opts.TTY {
		st.setTTYLocked(st.sources[0].fd) // nobody else has st yet
	} else if st.opts.Stdin && !st.rec.stdinClosed() {
		path := st.path(stdinName)
		if st.stdin.fd = st.hub.fetch(path); st.stdin.fd < 0 {
			// ENXIO: the process has closed its end.
			if st.stdin.fd, err = reopenFIFO(path, unix.O_WRONLY|unix.O_NONBLOCK); err != nil && !errors.Is(err, unix.ENXIO) {
				return err
			}
		}
		if st.stdin.fd >= 0 {
			held[path] = st.stdin.fd
		}
	}
	st.hub.holdAll(held)
	if err := st.settle(); err != nil {
		return err
	}
	var empty []*source
	for _, s := range st.sources {
		if n, err := unix.IoctlGetInt(s.fd, unix.TIOCINQ); s.unsure && err == nil && n == 0 {
			empty = append(empty, s)
		}
	}
	if err := st.begin(); err != nil {
		return err
	}
	for _, s := range empty { // no readiness may ever come, see source.unsure
		s.sweep()
	}
	return nil
}

// settle finishes what an earlier daemon was in the middle of, before anything newer is read.
func (st *Streams) settle() error {
	type unfinished struct {
		l *lane
		s *source
	}
	var all []unfinished
	for _, s := range st.sources {
		for _, l := range st.hub.unfinished(s.token) {
			all = append(all, unfinished{l, s})
		}
	}
	// A torn append must be completed before anything else goes into the same file. There is at
	// most one a log: logFile.mu was held from journaling it to committing it.
	slices.SortStableFunc(all, func(a, b unfinished) int {
		return cmp.Compare(b.l.h.phase.Load(), a.l.h.phase.Load())
	})
	for _, u := range all {
		if st.logf != nil {
			if err := u.l.settle(u.s); err != nil {
				st.hub.log.Error(err, "Finish the output an earlier daemon had begun to log", "path", u.s.path())
			}
		}
		u.l.giveUp()
		if err := st.hub.freeLane(u.l); err != nil {
			return err
		}
	}
	return nil
}
