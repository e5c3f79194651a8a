// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// Leases keep things from garbage collection that no image or container refers to. There are two kinds:
// that of a running pull, and, with a time to live, that of what a failed or killed pull had got.
const (
	pullLease   = "pull-"
	parkedLease = "parked-"

	labelRef  = "embedcri.io/ref"  // of a lease: what was being pulled
	labelBoot = "embedcri.io/boot" // of a lease or image record: the boot in which it was written
)

// leasePull makes the lease of a pull of ref.
func (s *Store) leasePull(ctx context.Context, ref string) (leases.Lease, error) {
	lease, err := s.leases.Create(ctx, leases.WithID(pullLease+randomName()),
		leases.WithLabels(map[string]string{labelRef: ref, labelBoot: s.boot}))
	if err != nil {
		return leases.Lease{}, fmt.Errorf("lease for the pull: %w", err)
	}
	return lease, nil
}

// endPull lets go of a pull's lease: at once if it succeeded (the image's records hold everything), was
// given up or cannot succeed the next time either, and later if it failed otherwise, so that the next
// attempt finds what this one had got.
func (s *Store) endPull(ctx context.Context, lease leases.Lease, ref string, pullErr error) {
	ctx = context.WithoutCancel(ctx)
	var err error
	switch {
	case pullErr == nil:
		err = errors.Join(s.dropParked(ctx, ref), s.leases.Delete(ctx, lease))
	case errors.Is(pullErr, errAbandoned) || hopeless(pullErr):
		err = errors.Join(s.dropParked(ctx, ref), s.leases.Delete(ctx, lease))
		s.collectSoon()
	case s.ctx.Err() != nil:
		return // the store is closing: the next Open decides, as after a kill
	default:
		err = s.park(ctx, lease, ref)
		s.collectSoon()
	}
	if err != nil {
		s.log.Error(err, "what a pull has left stays until the next start", "image", ref)
	}
}

// hopeless tells whether it is the image itself that a pull failed on.
func hopeless(err error) bool {
	class := classOf(err)
	return errors.Is(err, errTooLarge) || class == errdefs.ErrInvalidArgument || class == errdefs.ErrNotImplemented || class == errdefs.ErrDataLoss
}

// park replaces a pull's lease by one that ends by itself.
func (s *Store) park(ctx context.Context, lease leases.Lease, ref string) error {
	if s.options.ResumeFor < 0 {
		return s.leases.Delete(ctx, lease)
	}
	resources, err := s.leases.ListResources(ctx, lease)
	if err != nil {
		return fmt.Errorf("list what the pull got: %w", err)
	}
	if err := s.dropParked(ctx, ref); err != nil {
		return err
	}
	return s.db.Update(func(tx *bolt.Tx) error {
		ctx := boltutil.WithTransaction(ctx, tx)
		parked, err := s.leases.Create(ctx, leases.WithID(parkedLease+randomName()), leases.WithExpiration(s.options.ResumeFor),
			leases.WithLabels(map[string]string{labelRef: ref, labelBoot: s.boot}))
		if err != nil {
			return err
		}
		for _, r := range resources {
			if strings.Contains(r.ID, extracting) {
				continue // half-unpacked: of no use to anybody
			}
			if err := s.leases.AddResource(ctx, parked, r); err != nil && !errdefs.IsNotFound(err) {
				return err
			}
		}
		return s.leases.Delete(ctx, lease)
	})
}

// dropParked forgets what earlier pulls of ref had left.
func (s *Store) dropParked(ctx context.Context, ref string) error {
	all, err := s.leases.List(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range all {
		if strings.HasPrefix(l.ID, parkedLease) && l.Labels[labelRef] == ref {
			errs = append(errs, s.leases.Delete(ctx, l))
		}
	}
	return errors.Join(errs...)
}

func randomName() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails, says crypto/rand
	return hex.EncodeToString(b[:])
}
