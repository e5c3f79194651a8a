// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/embedcri/embedcri/internal/mount"
	"github.com/embedcri/embedcri/internal/namespace"
)

// reconcileEvery is how often the world is compared with the records, apart from once after the start.
const reconcileEvery = 10 * time.Minute

// reconcile is a goroutine: it removes what is ours and nobody's, until the manager closes.
func (m *Manager) reconcile() {
	for {
		if err := m.reconcileOnce(m.base); err != nil && m.base.Err() == nil {
			m.log().Error(err, "remove what belongs to nothing; trying again", "in", reconcileEvery)
		}
		select {
		case <-time.After(reconcileEvery):
		case <-m.base.Done():
			return
		}
	}
}

// reconcileOnce removes what bears an id that is on no record: bundles with their mounts, FIFOs and cgroups, state of the OCI
// runtimes, pod files, pinned namespaces, root file systems, image volumes, exit records, descriptors in the keeper. There should
// never be any: it takes a record that somebody deleted, or a bug. (Leases of images run out, which the image store sees to.)
//
// Only what lies in this daemon's own directories and its own image store is looked at, so it is provably ours. That it is
// nobody's follows from the order: a record is written before, and deleted after, what it is for, and ids are not used twice; so
// what is listed first and has no record afterwards is either an orphan or gone.
func (m *Manager) reconcileOnce(ctx context.Context) error {
	things, err := m.things(ctx)
	if err != nil {
		return err
	}
	ctrs, err := m.ctrRecs.List()
	if err != nil {
		return err
	}
	pods, err := m.podRecs.List()
	if err != nil {
		return err
	}
	errs := []error{m.tasks.Reconcile(m.allTasks(), m.ctrRecs.List)}
	for _, t := range things {
		if slices.Contains(ctrs, t.id) || slices.Contains(pods, t.id) {
			continue
		}
		m.log().Info("belongs to nothing on record; removed", "what", t.what, "id", t.id)
		errs = append(errs, t.remove(ctx))
	}
	return errors.Join(errs...)
}

// thing is something that belongs to the pod or container with an id.
type thing struct {
	what, id string
	remove   func(context.Context) error
}

func (m *Manager) things(ctx context.Context) ([]thing, error) {
	var all []thing
	in := func(what, dir string, remove func(ctx context.Context, id string) error) {
		entries, _ := os.ReadDir(dir) // that it is not there means that it is empty
		for _, e := range entries {
			if id := e.Name(); e.IsDir() && len(id) == idLength && idPattern.MatchString(id) {
				all = append(all, thing{what, id, func(ctx context.Context) error { return remove(ctx, id) }})
			}
		}
	}
	for name := range m.o.Handlers {
		for _, id := range m.tasks.Runtimes(name) {
			all = append(all, thing{"container of the OCI runtime", id, func(ctx context.Context) error { return m.discardTask(ctx, id, name) }})
		}
	}
	rootfses, err := m.o.Images.Rootfses(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range rootfses {
		all = append(all, thing{"root file system", id, func(ctx context.Context) error {
			return m.o.Images.RemoveRootfs(ctx, id, m.tasks.Rootfs(id))
		}})
	}
	volumes, err := m.o.Images.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	for _, target := range volumes {
		all = append(all, thing{"image volume", filepath.Base(filepath.Dir(target)), func(ctx context.Context) error {
			return m.o.Images.UnmountImage(ctx, target)
		}})
	}
	in("bundle", m.tasks.Dir(""), m.removeBundle)
	in("pod files", m.o.PodDir, func(_ context.Context, id string) error {
		if err := mount.RemoveDir(filepath.Join(m.o.PodDir, id, "shm")); err != nil {
			return err
		}
		return os.RemoveAll(filepath.Join(m.o.PodDir, id))
	})
	in("pinned namespaces", m.o.NamespaceDir, func(_ context.Context, id string) error {
		return namespace.Delete(filepath.Join(m.o.NamespaceDir, id))
	})
	return all, nil
}

// idLength is that of ids in full.
const idLength = 64

// removeBundle removes a bundle, the processes in its cgroup, and its streams; what is mounted in it has gone before.
func (m *Manager) removeBundle(ctx context.Context, id string) error {
	if err := m.discardTask(ctx, id, m.o.Default); err != nil {
		return err
	}
	if err := mount.Unmount(m.tasks.Rootfs(id)); err != nil {
		return err
	}
	return m.tasks.RemoveBundle(id)
}
