// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// collectDelay gathers what is let go of within it into one collection: a collection keeps writers
	// out of the database while it looks around.
	collectDelay = 500 * time.Millisecond
	// collectEvery finds leases that have run out.
	collectEvery = 15 * time.Minute
)

// collectSoon has unreferenced blobs and snapshots deleted, in the background.
func (s *Store) collectSoon() {
	select {
	case s.collectWake <- struct{}{}:
	default: // it is going to
	}
}

// collect is the collector's goroutine, until Close.
func (s *Store) collect() {
	ctx := s.scoped(s.ctx)
	ticker := time.NewTicker(collectEvery)
	defer ticker.Stop()
	for {
		select {
		case <-s.collectWake:
			select {
			case <-time.After(collectDelay):
			case <-s.ctx.Done():
				return
			}
			select {
			case <-s.collectWake:
			default:
			}
		case <-ticker.C:
		case <-s.ctx.Done():
			return
		}
		if err := s.Collect(ctx); err != nil && s.ctx.Err() == nil {
			s.log.Error(err, "garbage stays until the next collection")
		}
	}
}

// Collect deletes every blob and snapshot that no image, container, image volume or pull needs, now,
// and returns when their files are gone. The store does this by itself; tests and tools want to wait.
func (s *Store) Collect(ctx context.Context) error {
	ctx = s.scoped(ctx)
	// One after the other: a second one would find nothing to do while the first has yet to delete its files.
	s.collecting.Lock()
	defer s.collecting.Unlock()
	start := time.Now()
	if _, err := s.db.GarbageCollect(ctx); err != nil {
		return fmt.Errorf("collect garbage: %w", err)
	}
	s.counters.collections.Add(1)
	s.counters.collectionNanos.Add(uint64(time.Since(start)))
	return s.measure(ctx)
}

// markDirty makes the next collection compare the backends' files with the database. By itself it only
// does so where something was deleted since Open; after a kill there may be files that never made it
// into the database. Making and deleting one blob and one snapshot is the way to say so.
func (s *Store) markDirty(ctx context.Context) error {
	blob := []byte(s.boot)
	desc := ocispec.Descriptor{Digest: digest.FromBytes(blob), Size: int64(len(blob))}
	name := "dirty-" + randomName()
	if err := content.WriteBlob(ctx, s.content, name, newReader(blob), desc); err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	if err := s.content.Delete(ctx, desc.Digest); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if _, err := s.snapshots.Prepare(ctx, name, ""); err != nil {
		return err
	}
	return s.snapshots.Remove(ctx, name)
}
