// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"github.com/embedcri/embedcri/internal/failpoint"
)

// Remove removes the image that ref finds, with all its names, as the CRI asks for. It succeeds if there
// is none. Containers of the image are not disturbed: the layers below them stay until the last is gone.
// Disk space comes back a moment later, with the next collection.
func (s *Store) Remove(ctx context.Context, ref string) error {
	ctx = s.scoped(ctx)
	img, err := s.index.find(ref)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove image: %w", err)
	}
	err = failpoint.ImageRemove.Do(func() error { return s.db.Update(s.deleteRecords(ctx, img)) })
	if err != nil {
		return fmt.Errorf("remove image %s: %w", ref, err)
	}
	if _, err := s.reload(ctx); err != nil {
		return fmt.Errorf("remove image %s: %w", ref, err)
	}
	s.counters.removed.Add(1)
	s.collectSoon()
	return nil
}

// deleteRecords deletes all names that are still the image's.
func (s *Store) deleteRecords(ctx context.Context, img *Image) func(*bolt.Tx) error {
	return func(tx *bolt.Tx) error {
		ctx := boltutil.WithTransaction(ctx, tx)
		for _, name := range img.recordNames {
			record, err := s.images.Get(ctx, name)
			if errdefs.IsNotFound(err) {
				continue
			}
			if err != nil {
				return err
			}
			if base := s.index.byTarget(record.Target.Digest); base != nil && base.ID != img.ID {
				continue // the tag has been pulled anew meanwhile: it is another image's
			}
			if err := s.images.Delete(ctx, name); err != nil {
				return err
			}
		}
		return nil
	}
}
