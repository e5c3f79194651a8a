// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/selinux/go-selinux/label"
	"golang.org/x/sys/unix"
)

// Create makes the streams of a new process in dir, which it creates. errdefs.ErrAlreadyExists
// if dir has some. On error nothing is left but, possibly, dir and the log file.
func (h *Hub) Create(dir string, o Options) (_ *Streams, err error) {
	st, err := h.newStreams(dir, o)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(st.dir, 0o700); err != nil {
		return nil, err
	}
	if o.Exec {
		st.rec = heapRecord()
	} else if st.rec, err = newRecord(st.path(recordName)); errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("streams in %s: %w", dir, errdefs.ErrAlreadyExists)
	}
	if err == nil {
		err = st.create()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create streams in %s: %w", dir, err), st.Remove())
	}
	return st, nil
}

func (st *Streams) create() (err error) {
	if st.opts.LogPath != "" {
		if st.logf, err = openLogFile(st.opts.LogPath, &st.hub.stats); err != nil {
			return err
		}
	}
	held := map[string]int{}
	if st.opts.TTY {
		st.sources = []*source{newSource(st, 0, -1)}
		if st.console, err = newConsoleSocket(st.hub.opts.Dir); err != nil {
			return err
		}
		st.ends.ConsoleSocket = st.console.path
	} else if err := st.createPipes(held); err != nil {
		return err
	}
	if !st.opts.Exec {
		st.hub.holdAll(held)
		return st.begin()
	}
	return nil
}

// createPipes makes the FIFOs and opens both ends of each.
func (st *Streams) createPipes(held map[string]int) error {
	for i, end := range []**os.File{&st.ends.Stdout, &st.ends.Stderr} {
		path := st.path(sourceNames[i])
		fd, err := openFIFO(path, unix.O_RDONLY|unix.O_NONBLOCK, st.opts.UID, st.opts.GID)
		if err != nil {
			return err
		}
		st.sources = append(st.sources, newSource(st, i, fd))
		held[path] = fd
		if err := label.SetFileLabel(path, st.opts.Label); err != nil {
			return err
		}
		// Read and write: with its own read end the process never sees EPIPE while no daemon is there.
		if *end, err = openEnd(path, unix.O_RDWR); err != nil {
			return err
		}
	}
	if !st.opts.Stdin {
		return nil
	}
	path := st.path(stdinName)
	both, err := openFIFO(path, unix.O_RDWR|unix.O_NONBLOCK, st.opts.UID, st.opts.GID)
	if err != nil {
		return err
	}
	defer unix.Close(both) // with it there, neither of the two opens waits for the other
	if err := label.SetFileLabel(path, st.opts.Label); err != nil {
		return err
	}
	if st.stdin.fd, err = reopenFIFO(path, unix.O_WRONLY|unix.O_NONBLOCK); err != nil {
		return err
	}
	held[path] = st.stdin.fd
	st.ends.Stdin, err = openEnd(path, unix.O_RDONLY)
	return err
}

// openEnd opens a container's end: an open file of its own and a blocking one, as its flags
// are the container's.
func openEnd(path string, flags int) (*os.File, error) {
	fd, err := reopenFIFO(path, flags)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}
