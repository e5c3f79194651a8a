// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/pkg/ioattach/internal/keeper"
)

// Keeper holds file descriptors for a daemon that is not there. Names are paths: the stream's
// directory and the stream. A second implementation over systemd's file descriptor store has to
// keep the same promises:
//
//   - Put returns once the descriptor is safe from the caller's death. A name that exists is
//     replaced.
//   - Get returns a new descriptor of what was put, errdefs.ErrNotFound if there is none. It
//     stays in the keeper.
//   - Open opens the reading end of a FIFO in one step with holding it under name: there is no moment at which it is open and
//     would close with the caller's death. It does not wait for a writer. An error means that nothing was opened.
//   - Drop of a name that is not there succeeds.
//   - Renewed delivers a value when the keeper has lost everything; all is put again then. Put
//     and Drop on a keeper that is just being renewed succeed, as that will set it right.
//   - Close lets go of the keeper, which goes on.
//
// It is safe for concurrent use.
type Keeper interface {
	Put(fds map[string]int) error
	Get(name string) (int, error)
	Open(name, path string) (int, error)
	Drop(names ...string) error
	Names() ([]string, error)
	Renewed() <-chan struct{}
	Close() error
}

// KeeperOptions say where the node's keeper process listens and how it is started.
type KeeperOptions struct {
	// Socket is its unix socket, in a directory only root can enter. Removing it ends the keeper.
	Socket string
	// Command starts it, the socket's path is appended; default /proc/self/exe keeper. That program
	// must call KeeperMain with the arguments behind the last element of Command.
	Command []string
	// Env is added to its otherwise empty environment.
	Env []string
}

// OpenKeeper connects to the keeper process at o.Socket and starts it if there is none. When it
// dies another is started. Close does not end it: it outlives the daemon.
func OpenKeeper(ctx context.Context, o KeeperOptions) (Keeper, error) {
	return keeper.Open(ctx, keeper.Options{Socket: o.Socket, Command: o.Command, Env: o.Env})
}

// StopKeeper ends the keeper at socket, if there is one, and with it whatever only it holds
// open. Only `embedcri cleanup` has a reason to.
func StopKeeper(socket string) error { return keeper.Stop(socket) }

// KeeperMain is the keeper process: args are what followed the subcommand, that is the socket's
// path. It returns when the socket is removed, StopKeeper is called or ctx ends. A caller should
// get here before it initialises anything that takes memory.
func KeeperMain(ctx context.Context, args []string) error { return keeper.Main(ctx, args) }

// hold gives fd to the keeper under name, now and whenever the keeper is renewed.
func (h *Hub) hold(name string, fd int) { h.holdAll(map[string]int{name: fd}) }

func (h *Hub) holdAll(fds map[string]int) {
	if h.opts.Keeper == nil {
		return
	}
	h.heldMu.Lock()
	maps.Copy(h.held, fds)
	err := h.opts.Keeper.Put(fds)
	h.heldMu.Unlock()
	if err != nil {
		h.log.Error(err, "Give file descriptors to the keeper")
	}
}

// OpenHeld opens the reading end of the FIFO path, which somebody waits to write to, such as the one that a container's init is parked
// at, so that the end outlives this daemon: whatever it dies of in the middle, the writer never finds itself without a reader. The
// descriptor is the caller's; the keeper has one of its own under name until LetGo is called by any daemon. An error, such as
// errdefs.ErrUnavailable if there is no keeper that can, means that nothing has been opened.
func (h *Hub) OpenHeld(name, path string) (int, error) {
	if h.opts.Keeper == nil {
		return -1, fmt.Errorf("open %s: no keeper: %w", path, errdefs.ErrUnavailable)
	}
	return h.opts.Keeper.Open(name, path)
}

// LetGo ends what OpenHeld began. It does not wait; a name that is not held is fine.
func (h *Hub) LetGo(name string) { h.letGo(name) }

// forgetHeld must be called before a held descriptor is closed.
func (h *Hub) forgetHeld(names ...string) {
	h.heldMu.Lock()
	defer h.heldMu.Unlock()
	for _, n := range names {
		delete(h.held, n)
	}
}

// letGo takes names back from the keeper for good. It does not wait for it: the caller may be a
// reader.
func (h *Hub) letGo(names ...string) {
	if h.opts.Keeper == nil {
		return
	}
	h.heldMu.Lock()
	defer h.heldMu.Unlock()
	for _, n := range names {
		delete(h.held, n)
	}
	h.drops = append(h.drops, names...)
	select {
	case h.dropWake <- struct{}{}:
	default:
	}
}

// drop tells the keeper what letGo was called for, except what it has been given again since.
func (h *Hub) drop() {
	h.heldMu.Lock()
	names := slices.DeleteFunc(h.drops, func(n string) bool { _, again := h.held[n]; return again })
	h.drops = nil
	var err error
	if len(names) > 0 {
		err = h.opts.Keeper.Drop(names...) // under the lock: a Put of the same name comes after it
	}
	h.heldMu.Unlock()
	if err != nil {
		h.log.Error(err, "Take file descriptors back from the keeper", "names", names)
	}
}

// fetch returns the descriptor the keeper has under name, -1 if none.
func (h *Hub) fetch(name string) int {
	if h.opts.Keeper == nil {
		return -1
	}
	fd, err := h.opts.Keeper.Get(name)
	if err != nil {
		if !errors.Is(err, errdefs.ErrNotFound) {
			h.log.Error(err, "Get a file descriptor back from the keeper", "name", name)
		}
		return -1
	}
	return fd
}

// follow does what has to be done about the keeper on nobody's time: it drops what was let go
// of, and gives a new keeper everything the old one had.
func (h *Hub) follow() {
	for {
		select {
		case <-h.done:
			h.drop()
			return
		case <-h.dropWake:
			h.drop()
			continue
		case <-h.opts.Keeper.Renewed():
		}
		// The lock keeps every descriptor open while it is on its way.
		h.heldMu.Lock()
		err := h.opts.Keeper.Put(h.held)
		n := len(h.held)
		h.heldMu.Unlock()
		h.log.Info("The keeper was lost; handed everything to a new one", "fds", n, "err", err)
	}
}

// DropStale empties the keeper of streams whose directory is gone: a Remove that was cut short. A new Hub does it by itself; it may be
// called at any time.
func (h *Hub) DropStale() {
	if h.opts.Keeper == nil {
		return
	}
	names, err := h.opts.Keeper.Names()
	if err != nil {
		h.log.Error(err, "List the keeper's file descriptors")
	}
	for _, n := range names {
		if dir := filepath.Dir(n); dir != h.opts.Dir && !strings.HasPrefix(n, h.opts.Dir+"/lane-") {
			if _, err := os.Lstat(dir); errors.Is(err, unix.ENOENT) {
				h.letGo(n)
			}
		}
	}
}
