// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/embedcri/embedcri/internal/failpoint"
)

const (
	volumePrefix = "volume-"
	// labelTarget on the snapshot of an image volume is where it is mounted.
	labelTarget = "embedcri.io/target"
)

// volumeKey names the snapshot of the image volume at target.
func volumeKey(target string) string {
	return fmt.Sprintf("%s%x", volumePrefix, sha256.Sum256([]byte(target)))
}

// VolumeRequest is what MountImage is asked for.
type VolumeRequest struct {
	// ImageID is the image's id, as in [Image.ID].
	ImageID string
	// Target is the absolute path to mount at. It is made if it is not there.
	Target string
	// UIDMap and GIDMap are as in [RootfsRequest].
	UIDMap, GIDMap []specs.LinuxIDMapping
	// MountLabel is as in [RootfsRequest].
	MountLabel string
}

// MountImage mounts an image's files read-only, for a volume of the CRI's image kind. It is idempotent. The
// files stay until UnmountImage, even if the image is removed.
func (s *Store) MountImage(ctx context.Context, req VolumeRequest) error {
	ctx = s.scoped(ctx)
	target := req.Target
	img, err := s.index.find(req.ImageID)
	if err != nil {
		return fmt.Errorf("mount image at %s: %w", target, err)
	}
	labels, err := rootLabels(req.UIDMap, req.GIDMap, req.MountLabel)
	if err != nil {
		return fmt.Errorf("mount image %s at %s: %w", img.Name(), target, err)
	}
	labels[labelTarget] = target
	var mounts []mount.Mount
	err = failpoint.VolumeSnapshot.Do(func() (err error) {
		mounts, err = s.snapshots.View(ctx, volumeKey(target), img.chainID, snapshots.WithLabels(labels))
		return err
	})
	if errdefs.IsAlreadyExists(err) {
		mounts, err = s.snapshots.Mounts(ctx, volumeKey(target))
	}
	if err != nil {
		return fmt.Errorf("mount image %s at %s: %w", img.Name(), target, err)
	}
	mounted, err := mountpoint(target)
	if err != nil || mounted {
		return err
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("mount image %s: %w", img.Name(), err)
	}
	if mounts, err = s.overlaid(mounts, img.chainID != "", len(req.UIDMap) > 0 || req.MountLabel != ""); err != nil {
		return fmt.Errorf("mount image %s: %w", img.Name(), err)
	}
	if err := failpoint.VolumeMount.Do(func() error { return mount.All(withContext(mounts, req.MountLabel), target) }); err != nil {
		return fmt.Errorf("mount image %s at %s: %w", img.Name(), target, err)
	}
	return nil
}

// overlaid turns the bind mount that is the view of an image of one layer into an overlay of that layer and an empty
// directory, if ids are to be mapped or a label given: a read-only bind mount is not mapped (containerd, core/mount), and
// takes no label of its own.
func (s *Store) overlaid(mounts []mount.Mount, layers, needed bool) ([]mount.Mount, error) {
	if len(mounts) != 1 || mounts[0].Type != "bind" {
		return mounts, nil
	}
	if !needed || !layers {
		return mount.RemoveIDMapOption(mounts), nil
	}
	empty := filepath.Join(s.options.Root, "empty")
	if err := os.MkdirAll(empty, 0o755); err != nil {
		return nil, err
	}
	m := mount.Mount{Type: "overlay", Source: "overlay", Options: []string{"ro", "lowerdir=" + mounts[0].Source + ":" + empty}}
	for _, o := range mounts[0].Options {
		if strings.HasPrefix(o, "uidmap=") || strings.HasPrefix(o, "gidmap=") {
			m.Options = append(m.Options, o)
		}
	}
	return []mount.Mount{m}, nil
}

// UnmountImage takes back MountImage. It is idempotent.
func (s *Store) UnmountImage(ctx context.Context, target string) error {
	if err := failpoint.VolumeUnmount.Do(func() error { return unmount(target) }); err != nil {
		return fmt.Errorf("unmount image: %w", err)
	}
	err := failpoint.VolumeRemove.Do(func() error { return s.snapshots.Remove(s.scoped(ctx), volumeKey(target)) })
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("unmount image at %s: %w", target, err)
	}
	s.collectSoon()
	return nil
}

// Volumes lists the targets of all image volumes, for the reconciler, in no order.
func (s *Store) Volumes(ctx context.Context) ([]string, error) {
	var targets []string
	err := s.snapshots.Walk(s.scoped(ctx), func(_ context.Context, info snapshots.Info) error {
		if target := info.Labels[labelTarget]; target != "" {
			targets = append(targets, target)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list image volumes: %w", err)
	}
	return targets, nil
}
