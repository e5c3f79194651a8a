// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/pidfd"
)

// Watch is one process being watched. All methods may be called by anyone at
// any time; there is one Watch per key, however often it is asked for.
type Watch struct {
	key  Key
	pid  int
	proc proc
	done chan struct{} // closed with exit and err set

	signal func(unix.Signal) error // fakes only

	mu    sync.Mutex
	fd    int // pidfd, -1: none (any more)
	exit  Exit
	err   error
	over  bool  // done is closed
	bad   error // Watch failed; for whoever asked for the same key meanwhile
	tries int   // to make sense of a wake-up, then to collect the corpse
}

// NewWatch returns a watch that is not backed by a process, for fakes of Tracer
// (exitbpftest): end finishes it, once; signal, if not nil, serves Signal.
func NewWatch(k Key, pid int, signal func(unix.Signal) error) (w *Watch, end func(Exit, error)) {
	w = &Watch{key: k, pid: pid, done: make(chan struct{}), fd: -1, signal: signal}
	return w, func(e Exit, err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.finishLocked(e, err)
	}
}

// Key returns the key the process is watched under.
func (w *Watch) Key() Key { return w.key }

// Pid returns the process' pid as this process' pid namespace numbers it.
func (w *Watch) Pid() int { return w.pid }

// Done is closed once the process is dead, or the watch forgotten. Closing the
// tracer leaves it open: that the daemon goes says nothing about the process.
func (w *Watch) Done() <-chan struct{} { return w.done }

// Exit tells how the process ended, after Done. ErrLost: it is gone and no
// source knows how; ErrForgotten: Forget came first. Before Done is closed the
// answer is an errdefs.ErrFailedPrecondition.
func (w *Watch) Exit() (Exit, error) {
	select {
	case <-w.done:
	default:
		return Exit{}, fmt.Errorf("exit of process %d: still running: %w", w.pid, errdefs.ErrFailedPrecondition)
	}
	return w.exit, w.err // written before done was closed, never after
}

// Pidfd returns the process' pidfd, -1 if there is none (any more). It belongs
// to the watch and is closed by Forget and by Tracer.Close.
func (w *Watch) Pidfd() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fd
}

// Signal sends sig to the process, through its pidfd: never by number, so never
// to a stranger. A process that is dead or gone is an errdefs.ErrNotFound.
func (w *Watch) Signal(sig unix.Signal) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := unix.ESRCH
	switch {
	case w.over:
	case w.signal != nil:
		return w.signal(sig)
	case w.fd >= 0:
		if e := pidfd.Signal(w.fd, sig); e == nil {
			return nil
		} else if !errors.As(e, &err) {
			return fmt.Errorf("signal process %d: %w", w.pid, e)
		}
	}
	if err == unix.ESRCH {
		return fmt.Errorf("signal process %d: %w: %w", w.pid, err, errdefs.ErrNotFound)
	}
	return fmt.Errorf("signal process %d with %v: %w", w.pid, sig, err)
}

func (w *Watch) finishLocked(e Exit, err error) {
	if w.over {
		return
	}
	w.exit, w.err, w.over = e, err, true
	close(w.done)
}

// sameAs returns w to a second caller of Tracer.Watch, once the first is through.
func (w *Watch) sameAs(pid int) (*Watch, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bad != nil {
		return nil, w.bad
	}
	if w.pid != pid {
		return nil, fmt.Errorf("the key names process %d: %w", w.pid, errdefs.ErrAlreadyExists)
	}
	return w, nil
}
