// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/semaphore"
	"k8s.io/klog/v2"

	"github.com/embedcri/embedcri/internal/boot"
)

// namespace is the containerd namespace that everything of this store lives in.
const namespace = "embedcri"

// lockTimeout is how long Open waits for another process to let go of the store. A daemon that is
// being replaced needs a moment to exit; one that stays is a mistake that must be told at once.
const lockTimeout = 2 * time.Second

// maxUnpacks bounds how many layers are unpacked at once, which otherwise is one for every two processors: one of each pair
// decompresses, the other writes files. Each takes two megabytes of memory, and with zstd up to maxZstdWindow more.
const maxUnpacks = 8

// Store holds the node's images and the root file systems made from them. All methods may be called
// from several goroutines at once. See the package comment for what is where on disk.
type Store struct {
	options  Options
	platform platforms.MatchComparer
	log      klog.Logger

	content     content.Store // through the metadata database, as everything below
	images      images.Store
	leases      leases.Manager
	snapshots   snapshots.Snapshotter
	snapshotter string // "overlayfs" or "native"
	snapshotDir string
	backend     snapshots.Snapshotter
	db          *metadata.DB

	index     index
	pulls     flights[pullKey, *Image]
	blobs     keyLock             // one download of a blob, one unpack of a layer, node-wide
	downloads *semaphore.Weighted // bounds the layer downloads of all pulls together
	unpacks   *semaphore.Weighted // and the layers that are being unpacked
	usages    usageCache
	counters  counters
	active    activePulls
	sizes     atomic.Pointer[StoreUsage] // what measure found last
	boot      string                     // names this boot of the kernel

	collecting            sync.Mutex    // held during a garbage collection, by nobody else
	collectWake, syncWake chan struct{} // one token each: there is work for collect, for syncLoop

	ctx    context.Context // ends at Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // goroutines that outlive a call
}

// Open opens the store below o.Root, making it if it is not there. What a killed process left
// half-made is tidied up before Open returns. It fails with [errdefs.ErrUnavailable] if another
// process has the store open.
func Open(o Options) (_ *Store, err error) {
	redirectLog()
	o.setDefaults()
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("open image store %s: %w", o.Root, err)
		}
	}()
	if err := os.MkdirAll(o.Root, 0o700); err != nil {
		return nil, err
	}
	// Opened first: its lock keeps a second process away from everything else below root.
	db, err := openDatabase(filepath.Join(o.Root, "metadata.db"))
	if err != nil {
		return nil, err
	}
	s := &Store{
		options: o, log: klog.Background().WithName("image"), downloads: semaphore.NewWeighted(int64(o.MaxDownloads)),
		unpacks:     semaphore.NewWeighted(int64(min(max(runtime.NumCPU()/2, 1), maxUnpacks))),
		collectWake: make(chan struct{}, 1), syncWake: make(chan struct{}, 1),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			s.cancel()
			if s.backend != nil {
				err = errors.Join(err, s.backend.Close())
			}
			err = errors.Join(err, db.Close())
		}
	}()
	if s.boot, err = boot.ID(); err != nil {
		return nil, err
	}
	if s.platform, err = platformMatcher(o.Platform); err != nil {
		return nil, err
	}
	if err := s.openSnapshotter(); err != nil {
		return nil, err
	}
	contentDir := filepath.Join(o.Root, "content")
	if err := sweepIngests(contentDir); err != nil {
		return nil, fmt.Errorf("sweep downloads without a name: %w", err)
	}
	blobs, err := local.NewStore(contentDir)
	if err != nil {
		return nil, fmt.Errorf("content store: %w", err)
	}
	s.db = metadata.NewDB(db, blobs, map[string]snapshots.Snapshotter{s.snapshotter: s.backend})
	if err := s.db.Init(s.ctx); err != nil {
		return nil, fmt.Errorf("metadata database: %w", err)
	}
	s.content = s.db.ContentStore()
	s.snapshots = s.db.Snapshotter(s.snapshotter)
	s.images = metadata.NewImageStore(s.db)
	s.leases = metadata.NewLeaseManager(s.db)

	if err := s.recover(s.scoped(s.ctx)); err != nil {
		return nil, err
	}
	s.wg.Go(s.collect)
	s.wg.Go(s.syncLoop)
	s.wg.Go(s.emptyTrash)
	s.collectSoon()
	s.syncSoon()
	return s, nil
}

// Close ends running pulls, waits for the store's goroutines and lets go of the files. Mounted root
// file systems stay mounted: the containers on them go on.
func (s *Store) Close() error {
	s.cancel()
	s.pulls.wait()
	s.wg.Wait()
	return errors.Join(s.db.Close(), s.backend.Close())
}

// scoped puts ctx into the store's namespace and sends what containerd's libraries log to klog.
func (s *Store) scoped(ctx context.Context) context.Context {
	return withLog(namespaces.WithNamespace(ctx, namespace))
}

func openDatabase(path string) (*bolt.DB, error) {
	o := *bolt.DefaultOptions
	o.Timeout = lockTimeout
	o.FreelistType = bolt.FreelistMapType
	db, err := bolt.Open(path, 0o600, &o)
	if errors.Is(err, bolt.ErrTimeout) {
		return nil, fmt.Errorf("another process has it open (its lock on %s is held): %w", path, errdefs.ErrUnavailable)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return db, nil
}

func platformMatcher(platform string) (platforms.MatchComparer, error) {
	if platform == "" {
		return platforms.Only(platforms.DefaultSpec()), nil
	}
	p, err := platforms.Parse(platform)
	if err != nil {
		return nil, fmt.Errorf("platform %q: %w", platform, err)
	}
	return platforms.Only(p), nil
}

// openSnapshotter opens the snapshotter that the options name or, if they name none, overlayfs where
// the file system of root can carry it and native (plain copies: slow, large, works everywhere) where
// it cannot. A store keeps the snapshotter that it was made with: its images are unpacked there.
func (s *Store) openSnapshotter() (err error) {
	if s.snapshotter = s.options.Snapshotter; s.snapshotter == "" {
		s.snapshotter = s.chooseSnapshotter()
	}
	s.snapshotDir = filepath.Join(s.options.Root, s.snapshotter)
	if err := sweepOrphans(s.ctx, s.snapshotDir); err != nil {
		return fmt.Errorf("sweep directories of snapshots that were never recorded: %w", err)
	}
	if s.snapshotter == Native {
		s.backend, err = native.NewSnapshotter(s.snapshotDir)
	} else {
		// Asynchronous removal: directories go in garbage collection, not in the caller's time. Remapped
		// ids: the mounts of a snapshot with an id mapping carry it, for core/mount to idmap the layers.
		s.backend, err = overlay.NewSnapshotter(s.snapshotDir, overlay.AsynchronousRemove, overlay.WithRemapIDs)
	}
	if err != nil {
		return fmt.Errorf("%s snapshotter: %w", s.snapshotter, err)
	}
	return nil
}

func (s *Store) chooseSnapshotter() string {
	for _, name := range []string{Overlay, Native} {
		if _, err := os.Stat(filepath.Join(s.options.Root, name)); err == nil {
			return name
		}
	}
	if err := overlayutils.Supported(s.options.Root); err != nil {
		s.log.Info("overlayfs is not possible here: images are unpacked as plain copies", "root", s.options.Root, "err", err)
		return Native
	}
	return Overlay
}
