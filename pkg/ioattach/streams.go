// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

var errHubClosed = fmt.Errorf("stream hub is closed: %w", errdefs.ErrUnavailable)

// Options describe one process's streams. They are the same in Create and Load.
type Options struct {
	// LogPath is the CRI log file; empty for none. Missing parent directories are made, 0755.
	LogPath string
	// TTY gives the process a terminal instead of pipes.
	TTY bool
	// Stdin keeps the process's stdin open for attach clients; without it there is none.
	Stdin bool
	// StdinOnce closes stdin for good when the first client that brought a stdin is done with it.
	// It means nothing to a terminal.
	StdinOnce bool
	// Exec makes these the streams of an exec instead of a container: they end with the daemon, no
	// keeper holds them; the output waits for one client, which gets every byte at its own pace;
	// the end of that client's stdin is the end of the process's. LogPath must be empty.
	Exec bool
	// UID and GID (as the host sees them) will own the FIFOs, so that the process may open
	// /dev/stdout again.
	UID, GID int
}

// Stdio is what the OCI runtime gives the process: files, or the socket it sends the pty master
// to. They belong to the Streams, which close them in Started. A nil Stdin means /dev/null.
type Stdio struct {
	Stdin, Stdout, Stderr *os.File
	ConsoleSocket         string
}

// Streams are the stdio of one process. Their life is Create (or Load after a restart of the
// daemon), Stdio, Started, any number of Attach, Resize and ReopenLog, Drain, and then Remove,
// or Close where the process goes on without us. Safe for concurrent use.
type Streams struct {
	hub     *Hub
	dir     string
	opts    Options
	rec     *record
	logf    *logFile // nil without a log
	sources []*source

	started chan struct{} // closed by Started
	drained chan struct{} // closed once the process's output is complete
	drain   sync.Once
	let     sync.Once // closes everything

	mu      sync.Mutex // nothing slow under it
	ends    Stdio      // until Started
	console *consoleSocket
	tty     int // the pty master, our own copy for stdin and resizing; -1 before Started and after the end
	size    *Size
	stdin   stdinEnd
	clients map[*client]struct{}
	ended   bool // no client will get anything any more
}

func (h *Hub) newStreams(dir string, o Options) (*Streams, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if o.Exec && o.LogPath != "" {
		return nil, fmt.Errorf("exec streams have no log: %w", errdefs.ErrInvalidArgument)
	}
	return &Streams{hub: h, dir: dir, opts: o, tty: -1, stdin: stdinEnd{fd: -1}, started: make(chan struct{}),
		drained: make(chan struct{}), clients: map[*client]struct{}{}}, nil
}

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

const (
	recordName = "record"
	stdinName  = "stdin"
)

func (st *Streams) path(name string) string { return filepath.Join(st.dir, name) }

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
		st.sources = append(st.sources, s)
		if fd >= 0 {
			held[path] = fd
		}
	}
	if st.opts.TTY {
		st.setTTY(st.sources[0].fd)
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
	return st.begin()
}

// settle finishes what an earlier daemon was in the middle of, before anything newer is read.
func (st *Streams) settle() error {
	for _, s := range st.sources {
		for _, l := range st.hub.unfinished(s.token) {
			if st.logf != nil {
				if err := l.settle(s); err != nil {
					st.hub.log.Error(err, "Finish the output an earlier daemon had begun to log", "path", s.path())
				}
			}
			l.idle()
			if err := st.hub.freeLane(l); err != nil {
				return err
			}
		}
	}
	return nil
}

// begin has the hub read the sources. A pty that is gone has ended.
func (st *Streams) begin() error {
	for _, s := range st.sources {
		if s.fd >= 0 {
			if err := st.hub.add(s); err != nil {
				return err
			}
			continue
		}
		select {
		case <-st.started:
			s.end()
		default:
		}
	}
	return nil
}

// Stdio returns what to give the OCI runtime. errdefs.ErrFailedPrecondition after Started, Load
// or Close.
func (st *Streams) Stdio() (Stdio, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.ends == (Stdio{}) {
		return Stdio{}, fmt.Errorf("the process's ends of %s are closed: %w", st.dir, errdefs.ErrFailedPrecondition)
	}
	return st.ends, nil
}

// Started must be called once the runtime's create or exec has returned well: the process has
// its ends, ours are closed, so that the end of its output can be seen; the pty master is taken
// from the console socket. Calling it again does nothing.
func (st *Streams) Started() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	select {
	case <-st.started:
		return nil
	default:
	}
	if st.console != nil {
		if err := st.takeConsoleLocked(); err != nil {
			return fmt.Errorf("terminal of %s: %w", st.dir, err)
		}
	}
	st.closeEndsLocked()
	close(st.started)
	if st.opts.TTY && (!st.opts.Exec || len(st.clients) > 0) {
		return st.begin()
	}
	return nil
}

func (st *Streams) closeEndsLocked() {
	for _, f := range []*os.File{st.ends.Stdin, st.ends.Stdout, st.ends.Stderr} {
		if f != nil {
			_ = f.Close()
		}
	}
	st.ends = Stdio{}
	if st.console != nil {
		st.console.close()
		st.console = nil
	}
}

// ReopenLog makes everything that is logged from now on go to the file that is at LogPath now,
// which it creates if the old one was renamed. No line is lost, doubled or torn; the parts of a
// line over 16 KiB stay together unless its end takes longer than 100 ms to come.
// errdefs.ErrFailedPrecondition, and no file, if the output is complete already.
func (st *Streams) ReopenLog() error {
	select {
	case <-st.drained:
		return fmt.Errorf("reopen log %s: process is gone: %w", st.opts.LogPath, errdefs.ErrFailedPrecondition)
	default:
	}
	if st.logf == nil {
		return nil
	}
	if err := st.logf.reopen(st); err != nil {
		return fmt.Errorf("reopen log: %w", err)
	}
	return nil
}

// Close lets go of this daemon's handles; attach clients end. The process keeps running, the
// keeper keeps what it has, Load continues. A batch stuck on a hung disk keeps its handles until
// it returns; Close does not wait for it longer than HubOptions.DrainMax.
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
	h.letGo(st.path(sourceNames[0]), st.path(sourceNames[1]), st.path(stdinName))
	st.rec = heapRecord()
	return st.Remove()
}

func (st *Streams) letGo(forGood bool) error {
	done := make(chan struct{})
	st.let.Do(func() {
		st.mu.Lock()
		st.closeEndsLocked()
		st.mu.Unlock()
		st.closeStdin(forGood)
		st.endClients()
		go func() {
			defer close(done)
			for _, s := range st.sources {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.letGoLocked(forGood)
			}
			if st.logf != nil {
				_ = st.logf.close()
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
