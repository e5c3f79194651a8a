// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/unpack"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/semaphore"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/embedcri/embedcri/internal/failpoint"
)

const (
	// progressEvery is how often PullRequest.Progress is called.
	progressEvery = 100 * time.Millisecond
	// logEvery is how often a long pull says in the log how far it is.
	logEvery = 15 * time.Second
)

// PullRequest is what Pull is asked for.
type PullRequest struct {
	// Ref is the image: a name with a tag, a digest, both, or neither (":latest").
	Ref string
	// Auth are the credentials to show if a registry asks for them; nil is none.
	Auth *runtimeapi.AuthConfig
	// Handler is the runtime handler that the image is for. All handlers share their images; it only
	// keeps pulls apart.
	Handler string
	// Progress, if set, is called from Pull's goroutine, about ten times a second and once at the end.
	Progress func(Progress)
}

// pullKey says which pulls are one and the same.
type pullKey struct {
	ref, handler string
	auth         [sha256.Size]byte
}

// Pull downloads and unpacks an image, or finds that what the registry has is here already. It returns
// the image as it now is in the store.
//
// Calls for the same reference with the same credentials share one pull. It ends when ctx of the last
// of them ends, and then leaves nothing behind. A pull that fails otherwise keeps what it has got for
// [Options.ResumeFor], for the next one to go on from. Errors are [*PullError], but for a request that
// is wrong in itself ([errdefs.ErrInvalidArgument]) and for ctx's own.
func (s *Store) Pull(ctx context.Context, req PullRequest) (*Image, error) {
	named, err := parseReference(req.Ref)
	if err != nil {
		return nil, err
	}
	auth, err := parseAuth(req.Auth)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", named, err)
	}
	key := pullKey{ref: named.String(), handler: req.Handler, auth: sha256.Sum256(fmt.Appendf(nil, "%q", auth))}
	flight, err := s.pulls.join(ctx, s.ctx, key, func(ctx context.Context) (*Image, error) {
		return s.pullOnce(s.scoped(ctx), key, named, auth)
	})
	if err != nil {
		return nil, err
	}
	defer s.pulls.leave(flight)
	ticker := time.NewTicker(progressEvery)
	defer ticker.Stop()
	var last Progress
	for {
		select {
		case <-flight.done:
			if req.Progress != nil && flight.err == nil {
				req.Progress(last.finished(named.String()))
			}
			return flight.value, flight.err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-ticker.C:
			if state := s.active.find(key); state != nil && req.Progress != nil {
				last = state.progress()
				req.Progress(last)
			}
		}
	}
}

// pullOnce is one pull, shared by all who wait for it. Everything that it puts into the store hangs on
// a lease until the records of the image hold it.
func (s *Store) pullOnce(ctx context.Context, key pullKey, named reference.Named, auth credentials) (_ *Image, err error) {
	state := newPullState(named.String())
	s.active.add(key, state)
	defer s.active.remove(key)
	stopLog := s.logProgress(ctx, state)
	defer stopLog()
	defer func() {
		if err == nil {
			s.counters.pulled.Add(1)
			return
		}
		s.counters.failed.Add(1)
		if errors.Is(err, errAbandoned) || errors.Is(err, context.Canceled) {
			return
		}
		var pe *PullError
		if !errors.As(err, &pe) {
			err = &PullError{Reference: named.String(), Registry: registryOf(named), err: err}
		}
	}()

	var lease leases.Lease
	err = failpoint.ImageLease.Do(func() (err error) {
		lease, err = s.leasePull(ctx, named.String())
		return err
	})
	if err != nil {
		if lease.ID != "" { // it was made and is said to have failed
			err = errors.Join(err, s.leases.Delete(context.WithoutCancel(ctx), lease))
		}
		return nil, err
	}
	img, err := s.pullLeased(leases.WithLease(ctx, lease.ID), named, auth, state)
	end := func() error { s.endPull(ctx, lease, named.String(), err); return nil }
	if failpoint.ImageLeaseEnd.Do(end) != nil {
		_ = end() // once more: a lease that stays keeps what it holds until the next start
	}
	return img, err
}

func (s *Store) pullLeased(ctx context.Context, named reference.Named, auth credentials, state *pullState) (*Image, error) {
	sources, done, err := s.sources(ctx, named, auth)
	if err != nil {
		return nil, err
	}
	defer done()
	target, err := resolve(ctx, named, sources)
	if err != nil {
		return nil, err
	}
	if err := s.verify(ctx, named, target); err != nil {
		return nil, err
	}
	if err := s.ingest(ctx, target, s.fetchHandler(sources, state), state); err != nil {
		return nil, err
	}
	names, err := records(named, target.Digest)
	if err != nil {
		return nil, err
	}
	return s.publish(ctx, target, names)
}

// ingest walks from target (an index or a manifest) to the layers for this machine, gets each blob
// with fetch, and unpacks the layers while others are still arriving.
func (s *Store) ingest(ctx context.Context, target ocispec.Descriptor, fetch images.Handler, state *pullState) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	state.setStage(StageDownloading)
	labels := images.ChildGCLabels
	if s.options.DiscardBlobs {
		labels = images.ChildGCLabelsFilterLayers
	}
	children := images.SetChildrenMappedLabels(s.content, images.ChildrenHandler(s.content), labels)
	children = images.FilterPlatforms(children, s.platform)
	children = images.LimitManifests(children, s.platform, 1)
	manifest := images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		descs, err := children(ctx, desc)
		if errdefs.IsNotFound(err) && images.IsIndexType(desc.MediaType) {
			err = fmt.Errorf("index %s has nothing for platform %s: %w", desc.Digest, s.platformName(), errdefs.ErrNotFound)
		}
		switch {
		case err != nil:
		case images.IsManifestType(desc.MediaType):
			err = s.checkManifest(desc, descs, state)
		case images.IsConfigType(desc.MediaType):
			err = s.checkConfig(ctx, desc, state)
		}
		return descs, err
	})
	stack := &stacking{Snapshotter: s.snapshots}
	platform := unpack.Platform{
		SnapshotterKey: s.snapshotter,
		Snapshotter:    stack,
		Applier:        &applier{store: s, state: state, stack: stack},
	}
	if s.snapshotter == Overlay { // layers can be unpacked at the same time and put on top of each other afterwards
		platform.SnapshotterCapabilities = []string{snapshots.RebaseCap}
	}
	unpacker, err := unpack.NewUnpacker(ctx, s.content,
		unpack.WithUnpackPlatform(platform),
		unpack.WithLimiter(downloadLimiter{semaphore.NewWeighted(downloadsPerPull), s.downloads}),
		unpack.WithUnpackLimiter(unlimited{}),
		unpack.WithDuplicationSuppressor(&s.blobs),
	)
	if err != nil {
		return err
	}
	err = images.Dispatch(ctx, unpacker.Unpack(images.Handlers(fetch, manifest)), nil, target)
	if err != nil {
		cancel() // layers of a manifest whose configuration failed
	}
	if _, unpackErr := unpacker.Wait(); err == nil {
		err = unpackErr
	}
	return err
}

// downloadsPerPull bounds the layers that one pull downloads at once, within the bound of the node. Every download ends with a sync to
// disk; six at once made pulls from a fast registry slower, not faster, as the databases' syncs had to wait for theirs.
const downloadsPerPull = 3

// downloadLimiter takes a place in each of its limiters, in their order.
type downloadLimiter [2]*semaphore.Weighted

// Acquire implements unpack.Limiter.
func (l downloadLimiter) Acquire(ctx context.Context, n int64) error {
	if err := l[0].Acquire(ctx, n); err != nil {
		return err
	}
	if err := l[1].Acquire(ctx, n); err != nil {
		l[0].Release(n)
		return err
	}
	return nil
}

// Release implements unpack.Limiter.
func (l downloadLimiter) Release(n int64) {
	l[1].Release(n)
	l[0].Release(n)
}

// unlimited is a limiter that does not limit: the unpacker would hold a place while it waits for a download, and slow registries
// would take them all. The applier bounds itself once the layer is there.
type unlimited struct{}

// Acquire implements unpack.Limiter.
func (unlimited) Acquire(context.Context, int64) error { return nil }

// Release implements unpack.Limiter.
func (unlimited) Release(int64) {}

// publish makes what is in the store an image: all its names appear in one transaction, or none does.
// It is only called when all layers are unpacked.
func (s *Store) publish(ctx context.Context, target ocispec.Descriptor, names []string) (*Image, error) {
	img, err := s.load(ctx, target)
	if err != nil {
		return nil, err
	}
	if img.Platform.OS != "" && img.Platform.OS != "linux" {
		return nil, fmt.Errorf("image is made for %s: %w", img.Platform.OS, errdefs.ErrInvalidArgument)
	}
	err = failpoint.ImageRecord.Do(func() error {
		return s.db.Update(func(tx *bolt.Tx) error {
			ctx := boltutil.WithTransaction(ctx, tx)
			for _, name := range append(names, img.ID) {
				if err := s.putRecord(ctx, images.Image{Name: name, Target: target, Labels: s.unsyncedLabel()}); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("record image: %w", err)
	}
	if _, err := s.reload(ctx); err != nil {
		return nil, err
	}
	if err := s.measure(ctx); err != nil {
		return nil, err
	}
	s.syncSoon()
	return s.index.find(img.ID)
}

// putRecord leaves a record alone that says the same already: pulling an image again that has not
// changed writes nothing.
func (s *Store) putRecord(ctx context.Context, record images.Image) error {
	old, err := s.images.Get(ctx, record.Name)
	switch {
	case errdefs.IsNotFound(err):
		_, err = s.images.Create(ctx, record)
	case err == nil && old.Target.Digest != record.Target.Digest:
		_, err = s.images.Update(ctx, record, "target", "labels")
	}
	return err
}

// logProgress writes a line about a pull that takes long, now and then, until the returned function is
// called.
func (s *Store) logProgress(ctx context.Context, state *pullState) (stop func()) {
	logger := klog.FromContext(ctx)
	done := make(chan struct{})
	s.wg.Go(func() {
		ticker := time.NewTicker(logEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				p := state.progress()
				t := p.Total()
				logger.Info("pulling image", "image", p.Ref, "stage", p.Stage, "took", time.Since(p.Started).Round(time.Second),
					"bytes", t.Size, "downloaded", t.Downloaded, "unpacked", t.Unpacked, "layers", len(p.Layers))
			case <-done:
				return
			}
		}
	})
	return func() { close(done) }
}
