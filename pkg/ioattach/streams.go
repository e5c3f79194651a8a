// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"
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
	// Label is the SELinux label of the FIFOs, for the process may only use what its own label may; empty for none. Without
	// SELinux it means nothing.
	Label string `json:",omitempty"`
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

	starting sync.Mutex // Started, once at a time

	mu      sync.Mutex // nothing slow under it
	ends    Stdio      // until Started
	console *consoleSocket
	tty     int // the pty master, our own copy for stdin and resizing; -1 before Started and after the end
	size    *Size
	stdin   stdinEnd
	clients map[*client]struct{}
	ended   bool // no client will get anything any more
	gone    bool // Close or Remove was called
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

const (
	recordName = "record"
	stdinName  = "stdin"
)

func (st *Streams) path(name string) string { return filepath.Join(st.dir, name) }

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
	st.starting.Lock()
	defer st.starting.Unlock()
	select {
	case <-st.started:
		return nil
	default:
	}
	if st.opts.TTY {
		if err := st.takeConsole(); err != nil {
			return fmt.Errorf("terminal of %s: %w", st.dir, err)
		}
	}
	st.mu.Lock()
	defer st.mu.Unlock()
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
