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

	"github.com/embedcri/embedcri/internal/failpoint"
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
	if err := failpoint.TaskRemoving.Do(func() error { return t.apply(evRemove, nil) }); err != nil {
		return err
	}
	// From here on it is finished, whoever waits.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	t.endExecs()
	if err := failpoint.RuntimeDelete.Do(func() error { return t.deleteRuntime(ctx) }); err != nil {
		return fmt.Errorf("delete container %s: %w", t.id, err)
	}
	err := errors.Join(
		failpoint.StreamsRemove.Do(t.dropStreams),
		failpoint.BundleRemove.Do(func() error { return removeBundle(t.dir) }),
		failpoint.TaskForget.Do(func() error { return t.m.o.Exits.Forget(t.key) }),
	)
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

// Discard removes all that the runtime has of a task that never came to be, in whatever state its making was cut off, and its
// streams. It is idempotent. The bundle goes by RemoveBundle, once what is mounted in it is gone.
func (m *Manager) Discard(ctx context.Context, id, handler string) error {
	t, err := m.newTask(id, handler, nil)
	if err != nil {
		return err
	}
	if spec, err := readSpec(t.dir); err == nil {
		t.describe(spec)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := t.deleteRuntime(ctx); err != nil {
		return fmt.Errorf("discard container %s: %w", id, err)
	}
	if err := errors.Join(m.o.Streams.Remove(t.dir), m.o.Exits.Forget(t.key)); err != nil {
		return fmt.Errorf("discard container %s: %w", id, err)
	}
	return nil
}

// Runtimes returns the ids that a handler's runtime has state of.
func (m *Manager) Runtimes(handler string) []string {
	if rt := m.o.Runtimes[handler]; rt != nil {
		return rt.List()
	}
	return nil
}

// RemoveBundle removes the bundle of a task that never came to be.
func (m *Manager) RemoveBundle(id string) error { return removeBundle(m.Dir(id)) }
