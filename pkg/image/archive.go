// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ImportOptions says how to read an archive.
type ImportOptions struct {
	// BaseName completes names in the archive that are only a tag, as tools write them into OCI layouts:
	// "1.0" becomes BaseName:1.0. Without it such an image has no name but its id.
	BaseName string
}

// Import reads images from an OCI or docker archive (a tar, plain or compressed with gzip or zstd), of
// `docker save`, `ctr image export`, `skopeo copy … oci-archive:` and so on. An archive may hold several
// images, and several names of one. All images that it holds are on disk and in the store when Import
// returns, or none of them is listed; what it returns is sorted by their order in the archive.
func (s *Store) Import(ctx context.Context, r io.Reader, o ImportOptions) (_ []*Image, err error) {
	ctx = s.scoped(ctx)
	defer func() {
		if err != nil {
			err = fmt.Errorf("import images: %w", err)
		}
	}()
	plain, err := decompress(r)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	const name = "an archive" // not a reference: no pull can have the same
	lease, err := s.leasePull(ctx, name)
	if err != nil {
		return nil, err
	}
	defer func() { s.endImport(ctx, lease) }()
	ctx = leases.WithLease(ctx, lease.ID)

	desc, err := archive.ImportIndex(ctx, s.content, plain)
	if err != nil {
		return nil, err
	}
	blob, err := content.ReadBlob(ctx, s.content, desc)
	if err != nil {
		return nil, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(blob, &index); err != nil {
		return nil, err
	}
	found, err := archived(index.Manifests, o.BaseName)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("the archive holds no image: %w", errdefs.ErrInvalidArgument)
	}
	for _, f := range found {
		if err := s.ingest(ctx, f.target, s.presentHandler(), newPullState(f.target.Digest.String())); err != nil {
			return nil, err
		}
	}
	var imported []*Image
	for _, f := range found {
		img, err := s.publish(ctx, f.target, f.names)
		if err != nil {
			return nil, err
		}
		imported = append(imported, img)
	}
	// Nobody can pull these again if the machine goes down now.
	return imported, s.sync(ctx)
}

// endImport lets go of an import's lease. Nothing is kept for later: an archive is read again whole.
func (s *Store) endImport(ctx context.Context, lease leases.Lease) {
	if err := s.leases.Delete(context.WithoutCancel(ctx), lease); err != nil {
		s.log.Error(err, "what an import has left stays until the next start")
	}
	s.collectSoon()
}

// archivedImage is one image of an archive with the names it shall have.
type archivedImage struct {
	target ocispec.Descriptor
	names  []string
}

// archived groups the entries of an archive's index by what they point to.
func archived(manifests []ocispec.Descriptor, baseName string) ([]archivedImage, error) {
	var found []archivedImage
	for _, m := range manifests {
		var names []string
		if name := archivedName(m.Annotations, baseName); name != "" {
			named, err := parseReference(name)
			if err != nil {
				return nil, err
			}
			if names, err = records(named, m.Digest); err != nil {
				return nil, err
			}
		}
		i := slices.IndexFunc(found, func(f archivedImage) bool { return f.target.Digest == m.Digest })
		if i < 0 {
			i = len(found)
			found = append(found, archivedImage{target: ocispec.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: m.Size}})
		}
		for _, name := range names {
			if !slices.Contains(found[i].names, name) {
				found[i].names = append(found[i].names, name)
			}
		}
	}
	return found, nil
}

// archivedName reads the annotations of an entry: containerd's has the whole name, OCI's has, depending
// on the tool, the whole name or only the tag.
func archivedName(annotations map[string]string, baseName string) string {
	if name := annotations[images.AnnotationImageName]; name != "" {
		return name
	}
	name := annotations[ocispec.AnnotationRefName]
	switch {
	case name == "" || strings.ContainsAny(name, ":/"):
		return name
	case baseName != "":
		return baseName + ":" + name
	}
	return ""
}

// presentHandler is what an import has in place of fetchHandler: everything must be there.
func (s *Store) presentHandler() images.HandlerFunc {
	return func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		info, err := s.content.Info(ctx, desc.Digest)
		if err != nil {
			return nil, fmt.Errorf("the archive lacks %s: %w", desc.Digest, err)
		}
		if !images.IsLayerType(desc.MediaType) && info.Size > maxDocument {
			return nil, fmt.Errorf("%s %s: %d bytes are more than the %d allowed: %w",
				desc.MediaType, desc.Digest, info.Size, maxDocument, errTooLarge)
		}
		return nil, nil
	}
}

// Export writes images, each with all its names, as one archive that is an OCI layout and a docker
// archive at once. Of a multi-platform image it holds this machine's part. It fails with
// [errdefs.ErrFailedPrecondition] if the compressed layers were not kept ([Options.DiscardBlobs]).
func (s *Store) Export(ctx context.Context, w io.Writer, refs ...string) error {
	ctx = s.scoped(ctx)
	opts := []archive.ExportOpt{archive.WithPlatform(s.platform)}
	for _, ref := range refs {
		img, err := s.index.find(ref)
		if err != nil {
			return fmt.Errorf("export images: %w", err)
		}
		available, _, _, missing, err := images.Check(ctx, s.content, img.target, s.platform)
		if err != nil {
			return fmt.Errorf("export image %s: %w", ref, err)
		}
		if !available || len(missing) > 0 {
			return fmt.Errorf("export image %s: its compressed layers are not in the store: %w", ref, errdefs.ErrFailedPrecondition)
		}
		names := img.RepoTags
		if len(names) == 0 {
			names = img.RepoDigests
		}
		opts = append(opts, archive.WithManifest(img.target, names...))
	}
	if err := archive.Export(ctx, s.content, w, opts...); err != nil {
		return fmt.Errorf("export images: %w", err)
	}
	return nil
}
