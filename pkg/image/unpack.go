// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/embedcri/embedcri/internal/failpoint"
)

// applier unpacks the layers of one image into snapshots. It takes the place of containerd's
// core/diff/apply for three reasons: it bounds what an image may unpack to, it tells how far it is, and
// it never mounts anything, so that a killed daemon leaves no mount behind.
//
// That a layer cannot reach outside its snapshot is up to containerd's pkg/archive, which resolves every
// path inside the root; hostile_test.go holds it to that.
type applier struct {
	store *Store
	state *pullState
	stack *stacking
	// Bytes and files of all layers together.
	bytes, files atomic.Int64
}

// Apply implements diff.Applier: it unpacks the layer desc into the snapshot that mounts describe, and
// returns the digest of the uncompressed tar, which the caller compares with the configuration's.
func (a *applier) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, _ ...diff.ApplyOpt) (_ ocispec.Descriptor, err error) {
	var none ocispec.Descriptor
	if _, err := images.DiffCompression(ctx, desc.MediaType); err != nil {
		return none, fmt.Errorf("layer %s of type %s: %w", desc.Digest, desc.MediaType, err)
	}
	if err := a.store.unpacks.Acquire(ctx, 1); err != nil {
		return none, err
	}
	defer a.store.unpacks.Release(1)
	blob, err := a.store.content.ReaderAt(ctx, desc)
	if err != nil {
		return none, err
	}
	defer blob.Close()

	ctx, watch := watchStall(ctx, a.store.options.ProgressTimeout)
	defer watch.stop()
	defer func() {
		if err != nil && errors.Is(context.Cause(ctx), errStalled) {
			err = fmt.Errorf("nothing unpacked for %v: %w", a.store.options.ProgressTimeout, errStalled)
		}
	}()
	progress := &a.state.layer(desc.Digest).unpacked
	progress.Store(0)
	plain, err := decompress(&tellingReader{r: content.NewReader(blob), tell: func(n int) {
		watch.beat()
		progress.Add(int64(n))
	}})
	if err != nil {
		return none, fmt.Errorf("layer %s: %w", desc.Digest, err)
	}
	defer plain.Close()
	digester := digest.Canonical.Digester()
	size := int64(0)
	r := newReadAhead(&tellingReader{r: io.TeeReader(plain, digester.Hash()), tell: func(n int) {
		size += int64(n)
		a.store.counters.unpacked.Add(uint64(n))
	}})
	defer r.Close()
	limited := &limitedReader{r: r, left: a.store.options.MaxImageSize}

	if err := failpoint.ImageUnpack.Do(func() error { return a.extract(ctx, limited, mounts) }); err != nil {
		return none, err
	}
	// Tar ends at two empty blocks; the digest covers what follows them, too.
	if _, err := io.Copy(io.Discard, limited); err != nil {
		return none, err
	}
	r.Close()
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Size: size, Digest: digester.Digest()}, nil
}

// extract writes the tar into the snapshot's own directory.
func (a *applier) extract(ctx context.Context, r io.Reader, mounts []mount.Mount) error {
	root, parents, err := directories(mounts)
	if err != nil {
		return err
	}
	layout := newLayout()
	opts := []archive.ApplyOpt{archive.WithFilter(func(h *tar.Header) (bool, error) {
		layout.add(h)
		return a.accept(h)
	})}
	if mounts[0].Type == "overlay" {
		opts = append(opts, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout), archive.WithParents(parents))
	}
	if _, err := archive.Apply(ctx, root, r, opts...); err != nil {
		return err
	}
	dirs, err := layout.undescribed(root)
	if err == nil && len(dirs) > 0 && parents == nil {
		a.stack.undescribed.put(root, dirs)
	}
	return err
}

// accept is asked about every entry before it is written. The size in the header is what counts: a
// sparse file is short in the stream and long on disk.
func (a *applier) accept(h *tar.Header) (bool, error) {
	o := a.store.options
	if files := a.files.Add(1); o.MaxImageFiles > 0 && files > o.MaxImageFiles {
		return false, fmt.Errorf("image has more than the %d files allowed: %w", o.MaxImageFiles, errTooLarge)
	}
	if bytes := a.bytes.Add(max(h.Size, 0)); o.MaxImageSize > 0 && (bytes > o.MaxImageSize || bytes < 0) {
		return false, tooLarge(o.MaxImageSize)
	}
	// Overlayfs keeps its own notes in these attributes. An image that brings them along would have the
	// kernel follow them.
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "SCHILY.xattr.trusted.overlay.") || strings.HasPrefix(key, "SCHILY.xattr.user.overlay.") {
			delete(h.PAXRecords, key)
		}
	}
	return true, nil
}

// errTooLarge is in every error about an image that is larger than the options allow.
var errTooLarge = fmt.Errorf("image is too large: %w", errdefs.ErrResourceExhausted)

func tooLarge(limit int64) error {
	return fmt.Errorf("image unpacks to more than the %d bytes allowed: %w", limit, errTooLarge)
}

// limitedReader fails, rather than ends, once it has delivered what was left. No limit if left was not
// positive to begin with.
type limitedReader struct {
	r    io.Reader
	left int64
	read int64
}

// Read implements io.Reader.
func (l *limitedReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	l.read += int64(n)
	if l.left > 0 && l.read > l.left {
		return 0, tooLarge(l.left)
	}
	return n, err
}

// tellingReader tells how many bytes each read brought.
type tellingReader struct {
	r    io.Reader
	tell func(n int)
}

// Read implements io.Reader.
func (t *tellingReader) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.tell(n)
	return n, err
}
