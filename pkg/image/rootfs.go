// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/failpoint"
)

// labelRoot on a snapshot keeps it from garbage collection for itself. It says what a lease would, in
// the same transaction that makes the snapshot.
const labelRoot = "containerd.io/gc.root"

// labelMount on a snapshot is the SELinux label that it is mounted with.
const labelMount = "embedcri.io/mount-label"

// RootfsRequest is what CreateRootfs is asked for.
type RootfsRequest struct {
	// ContainerID owns the root file system: one container has one.
	ContainerID string
	// ImageID is the image's id, as in [Image.ID].
	ImageID string
	// Target is the absolute path to mount at. It is made if it is not there.
	Target string
	// UIDMap and GIDMap, both or none, are a user namespace's mapping of one range each, container id 0
	// included. The layers are then mounted with ids mapped, so that files of the image's root belong to
	// the namespace's root. Needs overlayfs and Linux 5.19.
	UIDMap, GIDMap []specs.LinuxIDMapping
	// MountLabel is the SELinux label of all files, user:role:type:level, for the mount's context= option; empty for none.
	// Overlayfs only: a bind mount takes no label.
	MountLabel string
}

// CreateRootfs makes a container's root file system, a writable layer over those of the image, and
// mounts it. It is idempotent: after an interrupted or repeated call it goes on from what is there. If it
// fails it leaves nothing. An image that is not there is [errdefs.ErrNotFound].
func (s *Store) CreateRootfs(ctx context.Context, req RootfsRequest) error {
	ctx = s.scoped(ctx)
	img, err := s.index.find(req.ImageID)
	if err != nil {
		return fmt.Errorf("create root file system %s: %w", req.ContainerID, err)
	}
	labels, err := rootLabels(req.UIDMap, req.GIDMap, req.MountLabel)
	if err != nil {
		return fmt.Errorf("create root file system %s: %w", req.ContainerID, err)
	}
	var mounts []mount.Mount
	err = failpoint.RootfsSnapshot.Do(func() (err error) {
		mounts, err = s.snapshots.Prepare(ctx, rootfsKey(req.ContainerID), img.chainID, snapshots.WithLabels(labels))
		return err
	})
	existed := errdefs.IsAlreadyExists(err)
	if existed {
		mounts, err = s.snapshots.Mounts(ctx, rootfsKey(req.ContainerID))
	}
	if err != nil {
		return fmt.Errorf("create root file system %s of image %s: %w", req.ContainerID, img.Name(), err)
	}
	if err := s.mountRootfs(withContext(mounts, req.MountLabel), req.ContainerID, req.Target); err != nil {
		if !existed {
			err = errors.Join(err, s.snapshots.Remove(context.WithoutCancel(ctx), rootfsKey(req.ContainerID)))
		}
		return err
	}
	if !existed {
		s.counters.rootfses.Add(1)
	}
	return nil
}

// rootLabels are the labels of a snapshot that is mounted: what keeps it from being collected, and how it is to be mounted.
// Id mappings are written as the snapshotter reads them.
func rootLabels(uids, gids []specs.LinuxIDMapping, mountLabel string) (map[string]string, error) {
	labels := map[string]string{labelRoot: time.Now().UTC().Format(time.RFC3339)}
	if mountLabel != "" {
		labels[labelMount] = mountLabel
	}
	if len(uids) == 0 && len(gids) == 0 {
		return labels, nil
	}
	if len(uids) != 1 || len(gids) != 1 || uids[0].ContainerID != 0 || gids[0].ContainerID != 0 {
		return nil, fmt.Errorf("id mappings %v and %v are not one range from 0 each: %w", uids, gids, errdefs.ErrInvalidArgument)
	}
	format := func(m specs.LinuxIDMapping) string { return fmt.Sprintf("%d:%d:%d", m.ContainerID, m.HostID, m.Size) }
	labels[snapshots.LabelSnapshotUIDMapping], labels[snapshots.LabelSnapshotGIDMapping] = format(uids[0]), format(gids[0])
	return labels, nil
}

// MountRootfs mounts a container's root file system again if it is not mounted: after a reboot, or
// where somebody unmounted it. [errdefs.ErrNotFound] if the container has none.
func (s *Store) MountRootfs(ctx context.Context, containerID, target string) error {
	mounts, err := s.snapshots.Mounts(s.scoped(ctx), rootfsKey(containerID))
	if err != nil {
		return fmt.Errorf("mount root file system %s: %w", containerID, err)
	}
	info, err := s.snapshots.Stat(s.scoped(ctx), rootfsKey(containerID))
	if err != nil {
		return fmt.Errorf("mount root file system %s: %w", containerID, err)
	}
	return s.mountRootfs(withContext(mounts, info.Labels[labelMount]), containerID, target)
}

func (s *Store) mountRootfs(mounts []mount.Mount, containerID, target string) error {
	mounted, err := mountpoint(target)
	if err != nil {
		return fmt.Errorf("mount root file system %s: %w", containerID, err)
	}
	if mounted {
		return nil
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("mount root file system %s: %w", containerID, err)
	}
	if len(mounts) == 1 && mounts[0].Type == "bind" {
		// An image without layers: the one directory there is was given to the mapped root when it was
		// made, and is not to be mapped once more.
		mounts = mount.RemoveIDMapOption(mounts)
	}
	if err := failpoint.RootfsMount.Do(func() error { return mount.All(s.withVolatile(mounts), target) }); err != nil {
		return fmt.Errorf("mount root file system %s at %s: %w", containerID, target, err)
	}
	return nil
}

// withContext adds the mount option that gives all files of an overlay one SELinux label (mount(8), context=). The quotes are
// part of it: a label may contain commas.
func withContext(mounts []mount.Mount, label string) []mount.Mount {
	if label == "" || len(mounts) != 1 || mounts[0].Type != "overlay" {
		return mounts
	}
	m := mounts[0]
	m.Options = append(slices.Clone(m.Options), fmt.Sprintf("context=%q", label))
	return []mount.Mount{m}
}

// withVolatile adds the overlay option, if it is wanted. The kernel marks the work directory of such a
// mount until it is unmounted, and refuses to mount what is marked: the machine may have lost power in
// between (Documentation/filesystems/overlayfs.rst, "Volatile mount"). Here the mark is taken off: the
// only one to mount such a layer again is the container that wrote it, in the same boot.
func (s *Store) withVolatile(mounts []mount.Mount) []mount.Mount {
	if !s.options.Volatile || len(mounts) != 1 || mounts[0].Type != "overlay" {
		return mounts
	}
	m := mounts[0]
	m.Options = append(slices.Clone(m.Options), "volatile")
	for _, o := range m.Options {
		if work, ok := strings.CutPrefix(o, "workdir="); ok {
			_ = os.RemoveAll(filepath.Join(work, "work", "incompat", "volatile")) // mount says if it matters
		}
	}
	return []mount.Mount{m}
}

// mountpoint tells whether something is mounted at path. A path that is not there is no mount point.
func mountpoint(path string) (bool, error) {
	if !filepath.IsAbs(path) {
		return false, fmt.Errorf("%q is not an absolute path: %w", path, errdefs.ErrInvalidArgument)
	}
	mounted, err := mountinfo.Mounted(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return mounted, err
}

// RemoveRootfs unmounts a container's root file system and removes it. It is idempotent, and may be
// called after a crash at any point of CreateRootfs or of itself. Files go in the background.
func (s *Store) RemoveRootfs(ctx context.Context, containerID, target string) error {
	ctx = s.scoped(ctx)
	if err := failpoint.RootfsUnmount.Do(func() error { return unmount(target) }); err != nil {
		return fmt.Errorf("remove root file system %s: %w", containerID, err)
	}
	s.usages.forget(containerID)
	err := failpoint.RootfsRemove.Do(func() error { return s.snapshots.Remove(ctx, rootfsKey(containerID)) })
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove root file system %s: %w", containerID, err)
	}
	s.counters.rootfsesGone.Add(1)
	s.collectSoon()
	return nil
}

// unmount takes away whatever is mounted at target, and target itself if it is empty then. A mount that
// is busy because it has leaked into another mount namespace is detached: it vanishes here at once, and
// for good when the last user lets go of it.
func unmount(target string) error {
	for range 16 { // something may be mounted over it more than once
		mounted, err := mountpoint(target)
		if err != nil {
			return err
		}
		if !mounted {
			break
		}
		err = unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) {
			err = unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", target, err)
		}
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	return nil
}
