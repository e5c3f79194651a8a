// SPDX-License-Identifier: Apache-2.0

package image

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// index is the list of images as readers see it: an immutable view that changes as a whole. Reading
// it takes no lock and touches no disk, whatever else the store does.
type index struct {
	view atomic.Pointer[view]

	mu sync.Mutex // serialises reloads
	// known are the parts of an image that depend on its target alone, so that a reload only reads what
	// is new.
	known map[digest.Digest]*Image
}

type view struct {
	images []*Image          // sorted by name
	byName map[string]*Image // by record: tag, digest reference, id
}

// Image finds an image by tag, by digest, by id or by the unique beginning of an id, with or without
// "sha256:". It never waits. [errdefs.ErrNotFound] if there is none, [errdefs.ErrInvalidArgument] if
// several ids begin so or ref cannot be a reference.
func (s *Store) Image(ref string) (*Image, error) { return s.index.find(ref) }

// Images lists all images, sorted by name. It never waits. Callers must not change the slice.
func (s *Store) Images() []*Image {
	if v := s.index.view.Load(); v != nil {
		return v.images
	}
	return nil
}

func (x *index) find(ref string) (*Image, error) {
	v := x.view.Load()
	hex, mayBeID := trimID(ref)
	if mayBeID {
		if img, ok := v.byName["sha256:"+hex]; ok {
			return img, nil
		}
	}
	named, err := parseReference(ref)
	if err == nil {
		if img, ok := v.byName[named.String()]; ok {
			return img, nil
		}
	}
	if !mayBeID {
		if err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("image %s: %w", ref, errdefs.ErrNotFound)
	}
	var found *Image
	for _, img := range v.images {
		if strings.HasPrefix(img.ID, "sha256:"+hex) {
			if found != nil {
				return nil, fmt.Errorf("image id %s is the beginning of several: %w", ref, errdefs.ErrInvalidArgument)
			}
			found = img
		}
	}
	if found == nil {
		return nil, fmt.Errorf("image %s: %w", ref, errdefs.ErrNotFound)
	}
	return found, nil
}

// reload makes the view agree with the records in the database. Records whose content or snapshot is
// missing are left out and returned in broken; they belong to an image that something destroyed, and
// only a pull can bring it back.
func (s *Store) reload(ctx context.Context) (broken []string, err error) {
	x := &s.index
	x.mu.Lock()
	defer x.mu.Unlock()
	records, err := s.images.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list image records: %w", err)
	}
	known := make(map[digest.Digest]*Image, len(records))
	byID := map[string]*Image{}
	next := &view{byName: make(map[string]*Image, len(records))}
	// Records by id come last: they decide which of several targets with the same configuration counts.
	slices.SortFunc(records, func(a, b images.Image) int {
		if isID(a.Name) != isID(b.Name) {
			return map[bool]int{true: 1, false: -1}[isID(a.Name)]
		}
		return strings.Compare(a.Name, b.Name)
	})
	for _, record := range records {
		base := cmp.Or(known[record.Target.Digest], x.known[record.Target.Digest])
		if base == nil {
			if base, err = s.load(ctx, record.Target); err != nil {
				if ctx.Err() != nil {
					return nil, context.Cause(ctx)
				}
				s.log.Error(err, "image is broken, it has to be pulled again", "image", record.Name)
				broken = append(broken, record.Name)
				continue
			}
		}
		known[record.Target.Digest] = base
		img := byID[base.ID]
		if img == nil {
			c := *base
			img = &c
			byID[base.ID] = img
		}
		img.add(record.Name)
		next.byName[record.Name] = img
	}
	for id, img := range byID {
		img.Pinned = matchPinned(s.options.Pinned, slices.Concat(img.RepoTags, img.RepoDigests, []string{id})...)
		next.byName[id] = img
	}
	next.images = slices.SortedFunc(maps.Values(byID), func(a, b *Image) int { return strings.Compare(a.Name(), b.Name()) })
	x.known = known
	x.view.Store(next)
	return broken, nil
}

// add gives the image one more name. Records come sorted, and so become its tags and digests.
func (i *Image) add(record string) {
	i.recordNames = append(i.recordNames, record)
	if isID(record) {
		return
	}
	named, err := reference.ParseNormalizedNamed(record)
	if err != nil {
		return // not a reference: nothing of ours, but it keeps the image
	}
	switch named.(type) {
	case reference.Canonical:
		i.RepoDigests = append(i.RepoDigests, record)
	case reference.Tagged:
		i.RepoTags = append(i.RepoTags, record)
	}
}

// load reads what target (an index or a manifest) says about the image for the store's platform, and
// checks that it is unpacked.
func (s *Store) load(ctx context.Context, target ocispec.Descriptor) (*Image, error) {
	manifest, err := images.Manifest(ctx, s.content, target, s.platform)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", target.Digest, err)
	}
	blob, err := content.ReadBlob(ctx, s.content, manifest.Config)
	if err != nil {
		return nil, fmt.Errorf("image configuration %s: %w", manifest.Config.Digest, err)
	}
	var spec ocispec.Image
	if err := json.Unmarshal(blob, &spec); err != nil {
		return nil, fmt.Errorf("image configuration %s: %w", manifest.Config.Digest, err)
	}
	img := &Image{
		ID:       manifest.Config.Digest.String(),
		Platform: spec.Platform,
		Config:   spec.Config,
		Created:  spec.Created,
		chainID:  identity.ChainID(spec.RootFS.DiffIDs).String(),
		target:   target,
		config:   manifest.Config,
	}
	chain := identity.ChainIDs(slices.Clone(spec.RootFS.DiffIDs))
	for _, id := range chain {
		usage, err := s.snapshots.Usage(ctx, id.String()) // of a committed snapshot: kept in the database
		if err != nil {
			return nil, fmt.Errorf("unpacked layer %s: %w", id, err)
		}
		img.Size += uint64(max(usage.Size, 0))
	}
	for _, blob := range append([]ocispec.Descriptor{target, manifest.Config}, manifest.Layers...) {
		if info, err := s.content.Info(ctx, blob.Digest); err == nil {
			img.Size += uint64(info.Size)
		}
	}
	return img, nil
}

// Spec reads the image's whole configuration document from disk, for verbose status.
func (s *Store) Spec(ctx context.Context, img *Image) (ocispec.Image, error) {
	var spec ocispec.Image
	blob, err := content.ReadBlob(s.scoped(ctx), s.content, img.config)
	if err != nil {
		return spec, fmt.Errorf("read configuration of image %s: %w", img.ID, err)
	}
	if err := json.Unmarshal(blob, &spec); err != nil {
		return spec, fmt.Errorf("read configuration of image %s: %w", img.ID, err)
	}
	return spec, nil
}

// byTarget returns what is known about an index or manifest, or nil.
func (x *index) byTarget(target digest.Digest) *Image {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.known[target]
}
