// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/embedcri/embedcri/internal/failpoint"
)

// maxDocument is the largest index, manifest or image configuration that is accepted, in bytes. They
// are read into memory whole. The OCI distribution specification asks registries to take manifests of
// 4 MiB at least; what real images have is a hundredth of it.
const maxDocument = 4 << 20

// fetchHandler downloads what a pull comes across: the index, the manifest, the configuration, layers.
func (s *Store) fetchHandler(sources []*source, state *pullState) images.HandlerFunc {
	return func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if err := desc.Digest.Validate(); err != nil {
			return nil, fmt.Errorf("descriptor with digest %q: %w: %w", desc.Digest, err, errdefs.ErrInvalidArgument)
		}
		limit := int64(maxDocument)
		if images.IsLayerType(desc.MediaType) {
			limit = s.options.MaxImageSize
		}
		if limit > 0 && desc.Size > limit {
			return nil, fmt.Errorf("%s %s: %d bytes are more than the %d allowed: %w",
				desc.MediaType, desc.Digest, desc.Size, limit, errTooLarge)
		}
		// Never follow URLs in a manifest: they lead anywhere, past hosts.toml and its certificates. Only
		// Windows base layers ever had them.
		desc.URLs = nil
		if err := s.fetch(ctx, desc, sources, state.layer(desc.Digest)); err != nil {
			return nil, fmt.Errorf("%s: %w", desc.Digest, err)
		}
		return nil, nil
	}
}

// fetch downloads one blob from the first source that delivers it. Bytes that one source has sent are
// kept for the next, which is asked for the rest only; if the whole then has the wrong digest, they are
// thrown away and the same source is asked once more for everything.
func (s *Store) fetch(ctx context.Context, desc ocispec.Descriptor, sources []*source, layer *layerState) error {
	var failed failures
	for _, src := range inOrder(sources) {
		for {
			resumed, err := s.fetchFrom(ctx, desc, src, layer)
			if err == nil || errdefs.IsAlreadyExists(err) {
				layer.downloaded.Store(desc.Size)
				return nil
			}
			if ctx.Err() != nil {
				if errors.Is(context.Cause(ctx), errAbandoned) {
					s.abort(ctx, desc)
				}
				return context.Cause(ctx)
			}
			useless := classOf(err) == errdefs.ErrDataLoss || resumed && refusedRange(err)
			if useless {
				s.abort(ctx, desc)
				if resumed {
					continue
				}
			}
			src.failed(err)
			failed.add(src.host, err)
			break
		}
	}
	return failed.error()
}

// refusedRange tells whether a server cannot send the rest of a blob, only all of it.
func refusedRange(err error) bool {
	var status remoteerrors.ErrUnexpectedStatus
	return errors.As(err, &status) && status.StatusCode == http.StatusRequestedRangeNotSatisfiable
}

// fetchFrom downloads one blob from one source, and tells whether it went on from bytes that were there
// already.
func (s *Store) fetchFrom(ctx context.Context, desc ocispec.Descriptor, src *source, layer *layerState) (resumed bool, err error) {
	watched, watch := watchStall(ctx, s.options.ProgressTimeout)
	watch.rest() // opening the blob may have to wait for another pull's hand on it
	defer watch.stop()
	meter := &meteredFetcher{next: src.fetcher, watch: watch, layer: layer, store: s}
	err = failpoint.ImageBlob.Do(func() error { return remotes.Fetch(watched, s.content, meter, desc) })
	if err != nil && ctx.Err() == nil && errors.Is(context.Cause(watched), errStalled) {
		err = fmt.Errorf("nothing received for %v: %w", s.options.ProgressTimeout.Round(time.Millisecond), errStalled)
	}
	return meter.resumed, err
}

// abort throws away the bytes of a blob that is not complete.
func (s *Store) abort(ctx context.Context, desc ocispec.Descriptor) {
	ctx = context.WithoutCancel(ctx)
	if err := s.content.Abort(ctx, remotes.MakeRefKey(ctx, desc)); err != nil && !errdefs.IsNotFound(err) {
		s.log.Error(err, "partial download stays until garbage collection", "digest", desc.Digest)
	}
}

// meteredFetcher counts what a fetcher's readers deliver, and keeps the stall watch informed.
type meteredFetcher struct {
	next    remotes.Fetcher
	store   *Store
	watch   *stallWatch
	layer   *layerState
	resumed bool
}

// Fetch implements remotes.Fetcher.
func (f *meteredFetcher) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	rc, err := f.next.Fetch(ctx, desc)
	if err != nil {
		return nil, err
	}
	f.watch.beat()
	f.layer.downloaded.Store(0)
	return &meteredReader{ReadCloser: rc, f: f}, nil
}

type meteredReader struct {
	io.ReadCloser
	f *meteredFetcher
}

// Read implements io.Reader.
func (r *meteredReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.f.layer.downloaded.Add(int64(n))
	r.f.store.counters.downloaded.Add(uint64(n))
	if err != nil {
		r.f.watch.rest() // what follows is the commit, which is not the network's business
	} else {
		r.f.watch.beat()
	}
	return n, err
}

// Seek lets content.Copy go on where an earlier download stopped.
func (r *meteredReader) Seek(offset int64, whence int) (int64, error) {
	seeker, ok := r.ReadCloser.(io.Seeker)
	if !ok {
		return 0, fmt.Errorf("the reader of the remote blob cannot seek: %w", errdefs.ErrNotImplemented)
	}
	at, err := seeker.Seek(offset, whence)
	if err == nil {
		r.f.resumed = r.f.resumed || at > 0
		r.f.layer.downloaded.Store(at)
	}
	return at, err
}
