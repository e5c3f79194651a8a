// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
)

// extracting begins the names of snapshots that a layer is being unpacked into (snapshots.UnpackKeyPrefix).
const extracting = snapshots.UnpackKeyPrefix + "-"

// recover makes a store usable that may have been left at any point: by a kill, or by a machine that
// lost power. No pull is running, and nothing here fails because of what it finds.
//
//   - Snapshots in the middle of unpacking are dropped.
//   - What a killed pull had completed is kept for a while, so that the kubelet's retry goes on from it;
//     after a crash of the machine it is dropped, since its files may never have reached the disk.
//   - Images whose files were not known to be on disk when the machine went down are dropped, too: the
//     kubelet pulls them again, rather than to run a program full of zeros.
//   - Then the rest is read into memory.
func (s *Store) recover(ctx context.Context) error {
	if err := s.dropExtracting(ctx); err != nil {
		return fmt.Errorf("drop half-unpacked layers: %w", err)
	}
	crashed, err := s.settleLeases(ctx)
	if err != nil {
		return fmt.Errorf("settle leases of killed pulls: %w", err)
	}
	unsynced, err := s.dropUnsynced(ctx)
	if err != nil {
		return fmt.Errorf("drop images that may not be on disk: %w", err)
	}
	if err := s.dropIngests(ctx); err != nil {
		return fmt.Errorf("drop partial downloads: %w", err)
	}
	if err := s.markDirty(ctx); err != nil {
		return fmt.Errorf("prepare the first collection: %w", err)
	}
	if crashed || unsynced {
		// Now, not later: a pull must not find layers that were not written out.
		if err := s.Collect(ctx); err != nil {
			return err
		}
	}
	broken, err := s.reload(ctx)
	if err != nil {
		return err
	}
	for _, name := range broken {
		// It could only fail in a container's face; without the record, the kubelet sees it is missing.
		if err := s.images.Delete(ctx, name); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("forget broken image %s: %w", name, err)
		}
	}
	return s.measure(ctx)
}

func (s *Store) dropExtracting(ctx context.Context) error {
	var names []string
	err := s.snapshots.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Kind != snapshots.KindCommitted && strings.HasPrefix(info.Name, extracting) {
			names = append(names, info.Name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if err := s.snapshots.Remove(ctx, name); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// settleLeases parks the leases of pulls that did not end. Those of an earlier boot go, and it says so.
func (s *Store) settleLeases(ctx context.Context) (crashed bool, err error) {
	all, err := s.leases.List(ctx)
	if err != nil {
		return false, err
	}
	for _, l := range all {
		running, parked := strings.HasPrefix(l.ID, pullLease), strings.HasPrefix(l.ID, parkedLease)
		switch {
		case (running || parked) && l.Labels[labelBoot] != s.boot:
			crashed = true
			err = s.leases.Delete(ctx, l)
		case running:
			err = s.park(ctx, l, l.Labels[labelRef])
		}
		if err != nil {
			return crashed, fmt.Errorf("lease %s: %w", l.ID, err)
		}
	}
	return crashed, nil
}

// dropIngests drops the partial downloads that no parked lease keeps.
func (s *Store) dropIngests(ctx context.Context) error {
	kept := map[string]bool{}
	all, err := s.leases.List(ctx)
	if err != nil {
		return err
	}
	for _, l := range all {
		resources, err := s.leases.ListResources(ctx, l)
		if err != nil {
			return err
		}
		for _, r := range resources {
			if r.Type == "ingests" {
				kept[r.ID] = true
			}
		}
	}
	partial, err := s.content.ListStatuses(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range partial {
		if !kept[p.Ref] {
			if err := s.content.Abort(ctx, p.Ref); err != nil && !errdefs.IsNotFound(err) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// sweepOrphans moves the directories below snapshots/ that the snapshotter does not know into the trash.
// A snapshotter renames the directory of a new snapshot to the snapshot's number and then commits that
// to its database; after a kill in between, the number is given to the next snapshot, whose rename fails
// for ever. It is called before the snapshotter is opened.
func sweepOrphans(ctx context.Context, dir string) (err error) {
	entries, err := os.ReadDir(filepath.Join(dir, "snapshots"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	meta, err := storage.NewMetaStore(filepath.Join(dir, "metadata.db"))
	if err != nil {
		return err
	}
	known := map[string]string{}
	err = meta.WithTransaction(ctx, true, func(ctx context.Context) (err error) {
		if known, err = storage.IDMap(ctx); errdefs.IsNotFound(err) {
			return nil // a daemon that was killed in its first start: nothing was recorded yet
		}
		return err
	})
	if err = errors.Join(err, meta.Close()); err != nil {
		return err
	}
	for _, e := range entries {
		if _, ok := known[e.Name()]; ok {
			continue
		}
		trash := filepath.Join(dir, trashDir)
		if err := os.MkdirAll(trash, 0o700); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(dir, "snapshots", e.Name()), filepath.Join(trash, randomName())); err != nil {
			return err
		}
	}
	return nil
}

// sweepIngests deletes downloads that were killed before they had a name, or in the middle of getting
// one: the content store lists downloads by name and would never see them again. It is called before the
// content store is opened.
func sweepIngests(dir string) error {
	ingest := filepath.Join(dir, "ingest")
	entries, err := os.ReadDir(ingest)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, err := os.ReadFile(filepath.Join(ingest, e.Name(), "ref"))
		if err == nil && len(name) > 0 {
			continue
		}
		if err := os.RemoveAll(filepath.Join(ingest, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// trashDir is where sweepOrphans puts things, next to snapshots/.
const trashDir = "trash"

// emptyTrash deletes what sweepOrphans has found, which may be large.
func (s *Store) emptyTrash() {
	if err := os.RemoveAll(filepath.Join(s.snapshotDir, trashDir)); err != nil {
		s.log.Error(err, "trash stays until the next start")
	}
}

func newReader(b []byte) io.Reader { return bytes.NewReader(b) }

// platformName is the platform that images are chosen for, for messages.
func (s *Store) platformName() string {
	if s.options.Platform != "" {
		return s.options.Platform
	}
	return platforms.Format(platforms.DefaultSpec())
}
