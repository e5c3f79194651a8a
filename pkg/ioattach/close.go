// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Close lets go of this daemon's handles; attach clients end. The process keeps running, the
// keeper keeps what it has, Load continues. A batch stuck on a hung disk keeps its handles until
// it returns; Close does not wait for it longer than HubOptions.DrainMax. A daemon that stops calls
// it before it ends the attach clients' connections: a client that leaves may close stdin for
// good (StdinOnce), one that is cut off because we leave must not.
func (st *Streams) Close() error { return st.letGo(false) }

// Remove closes the streams of a dead process and deletes their files and dir, if that is empty
// then. The log file stays. Streams that are gone already are no error.
func (st *Streams) Remove() error {
	err := st.letGo(true)
	for _, name := range []string{sourceNames[0], sourceNames[1], stdinName, recordName} {
		if e := unix.Unlink(st.path(name)); e != nil && e != unix.ENOENT && e != unix.ENOTDIR {
			err = errors.Join(err, &os.PathError{Op: "unlink", Path: st.path(name), Err: e})
		}
	}
	if e := unix.Rmdir(st.dir); e != nil && e != unix.ENOENT && e != unix.ENOTEMPTY && e != unix.EEXIST {
		err = errors.Join(err, &os.PathError{Op: "rmdir", Path: st.dir, Err: e})
	}
	return err
}

// Remove deletes what Create made in dir without loading it, for a process that is gone: the
// files, and what the keeper holds. Nothing there is no error.
func (h *Hub) Remove(dir string) error {
	st, err := h.newStreams(dir, Options{})
	if err != nil {
		return err
	}
	if st.rec, err = openRecord(st.path(recordName)); err != nil {
		st.rec = heapRecord() // not there, or not usable: nothing depends on it any more
	} else if err := errors.Join(h.forsake(st.rec.token(0)), h.forsake(st.rec.token(1))); err != nil {
		return err
	}
	return st.Remove()
}

func (st *Streams) letGo(forGood bool) error {
	done := make(chan struct{})
	st.let.Do(func() {
		st.mu.Lock()
		st.closeEndsLocked()
		st.closeStdinLocked(forGood)
		st.gone = true
		st.mu.Unlock()
		st.endClients()
		go func() {
			defer close(done)
			for _, s := range st.sources {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.letGoLocked(forGood)
			}
			if st.logf != nil {
				_ = st.logf.close(st)
			}
			if st.rec != nil {
				_ = st.rec.close()
			}
		}()
		late := time.NewTimer(st.hub.opts.DrainMax)
		defer late.Stop()
		select {
		case <-done:
		case <-late.C:
		}
	})
	if forGood && !st.opts.Exec { // also after a Close
		st.hub.letGo(st.path(sourceNames[0]), st.path(sourceNames[1]), st.path(stdinName))
	}
	return nil
}
