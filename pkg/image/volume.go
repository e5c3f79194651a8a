// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
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

// MountImage mounts an image's files read-only at target, an absolute path, for a volume of the CRI's
// image kind. It is idempotent. The files stay until UnmountImage, even if the image is removed.
func (s *Store) MountImage(ctx context.Context, imageID, target string) error {
	ctx = s.scoped(ctx)
	img, err := s.index.find(imageID)
	if err != nil {
		return fmt.Errorf("mount image at %s: %w", target, err)
	}
	mounts, err := s.snapshots.View(ctx, volumeKey(target), img.chainID, snapshots.WithLabels(map[string]string{
		labelRoot: time.Now().UTC().Format(time.RFC3339), labelTarget: target,
	}))
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
	if err := mount.All(mounts, target); err != nil {
		return fmt.Errorf("mount image %s at %s: %w", img.Name(), target, err)
	}
	return nil
}

// UnmountImage takes back MountImage. It is idempotent.
func (s *Store) UnmountImage(ctx context.Context, target string) error {
	if err := unmount(target); err != nil {
		return fmt.Errorf("unmount image: %w", err)
	}
	err := s.snapshots.Remove(s.scoped(ctx), volumeKey(target))
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
