// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/mount"
)

// Delete ends the task if need be and removes all it has: the runtime's state, the cgroup, the streams, the bundle, the exit
// record. The caller removes the root file system before, and the record afterwards. It is idempotent and can be repeated after an
// error or a crash.
func (t *Task) Delete(ctx context.Context) error {
	switch t.Status().State {
	case Created, Starting, Running, Unknown:
		if err := t.Stop(ctx, unix.SIGKILL, 0); err != nil {
			return err
		}
	}
	if err := t.op.Lock(ctx); err != nil {
		return fmt.Errorf("delete container %s: %w", t.id, err)
	}
	defer t.op.Unlock()
	if err := t.apply(evRemove, nil); err != nil {
		return err
	}
	// From here on it is finished, whoever waits.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	t.endExecs()
	if err := t.deleteRuntime(ctx); err != nil {
		return fmt.Errorf("delete container %s: %w", t.id, err)
	}
	err := errors.Join(t.dropStreams(), removeBundle(t.dir), t.m.o.Exits.Forget(t.key))
	if err != nil {
		return fmt.Errorf("delete container %s: %w", t.id, err)
	}
	return nil
}

func (t *Task) dropStreams() error {
	s := t.streams.Swap(nil)
	if s == nil {
		return t.m.o.Streams.Remove(t.dir) // never loaded by this daemon; an earlier one's may still be held by the keeper
	}
	return s.Remove()
}

// removeBundle removes the bundle's directory. The mount point goes first and has to be empty: nothing that is still mounted is
// ever deleted.
func removeBundle(dir string) error {
	if err := mount.RemoveDir(filepath.Join(dir, "rootfs")); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// RemoveBundle removes the bundle of a task that never came to be.
func (m *Manager) RemoveBundle(id string) error { return removeBundle(m.Dir(id)) }
