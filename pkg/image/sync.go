// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/failpoint"
)

// A layer is unpacked into the page cache; its record in the database is forced to disk. If the machine
// dies in between, the record is there and the files are empty, and a container would run them. Waiting
// for the disk at the end of each pull would cure that and make pulls slow. So the records of a new
// image say that its files are not known to be on disk, and in which boot; a sync of the file system,
// in the background, takes that back. A store that is opened in another boot drops images that still
// say so.

// unsyncedLabel is on the records of images whose files may not be on disk yet.
func (s *Store) unsyncedLabel() map[string]string { return map[string]string{labelBoot: s.boot} }

// syncSoon has the file system written out and the images of now marked as safe.
func (s *Store) syncSoon() {
	select {
	case s.syncWake <- struct{}{}:
	default: // it is going to
	}
}

// syncLoop is the goroutine that does it, until Close.
func (s *Store) syncLoop() {
	ctx := s.scoped(s.ctx)
	for {
		select {
		case <-s.syncWake:
		case <-s.ctx.Done():
			return
		}
		if err := s.sync(ctx); err != nil && s.ctx.Err() == nil {
			s.log.Error(err, "new images would have to be pulled again if the machine crashed now")
		}
	}
}

// sync writes the store's file system out and then takes the label off the records that had it before.
func (s *Store) sync(ctx context.Context) error {
	records, err := s.unsynced(ctx)
	if err != nil || len(records) == 0 {
		return err
	}
	dir, err := os.Open(s.snapshotDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("sync file system of %s: %w", s.snapshotDir, err)
	}
	return failpoint.ImageSynced.Do(func() error { return s.db.Update(s.unmark(ctx, records)) })
}

// unmark takes the label off records that have not changed meanwhile.
func (s *Store) unmark(ctx context.Context, records []images.Image) func(*bolt.Tx) error {
	return func(tx *bolt.Tx) error {
		ctx := boltutil.WithTransaction(ctx, tx)
		for _, r := range records {
			now, err := s.images.Get(ctx, r.Name)
			if err != nil || now.Target.Digest != r.Target.Digest {
				continue // removed, or moved to an image with a sync of its own
			}
			now.Labels = nil
			if _, err := s.images.Update(ctx, now, "labels"); err != nil {
				return err
			}
		}
		return nil
	}
}

func (s *Store) unsynced(ctx context.Context) ([]images.Image, error) {
	return s.images.List(ctx, fmt.Sprintf("labels.%q", labelBoot))
}

// dropUnsynced deletes the records of images that an earlier boot did not get onto the disk.
func (s *Store) dropUnsynced(ctx context.Context) (dropped bool, err error) {
	records, err := s.unsynced(ctx)
	if err != nil {
		return false, err
	}
	for _, r := range records {
		if r.Labels[labelBoot] == s.boot {
			continue
		}
		s.log.Info("the machine went down before this image was on disk: it has to be pulled again", "image", r.Name)
		if err := s.images.Delete(ctx, r.Name); err != nil {
			return dropped, err
		}
		dropped = true
	}
	return dropped, nil
}
