// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// The snapshotters of [Options.Snapshotter].
const (
	Overlay = "overlayfs"
	Native  = "native"
)

// Options says where a store is and what it may do. Only Root has no default.
type Options struct {
	// Root is the directory of the store. It must be on a local disk; nothing else may write there.
	Root string
	// Snapshotter is Overlay, Native or "", which takes Overlay where the file system of Root can.
	Snapshotter string
	// CertDirs are searched, in this order, for the hosts.toml of a registry, at every pull:
	// DIR/HOST_PORT_/hosts.toml, as in containerd's docs/hosts.md. A directory made for the very host in
	// any of them goes before a _default directory in any of them. Default: /etc/embedcri/certs.d, then
	// /etc/containerd/certs.d.
	CertDirs []string
	// Platform is what images are chosen for, as OS/ARCH[/VARIANT]; "" is this machine.
	Platform string
	// MaxDownloads bounds the layers that all pulls of the node download at once; a single pull downloads at most three. Default 6.
	MaxDownloads int
	// ProgressTimeout is how long a download may stand still until the next mirror is asked, and an
	// unpack until the pull fails. Default 5 minutes.
	ProgressTimeout time.Duration
	// MaxImageSize bounds the bytes that the layers of one image may unpack to; a pull of more fails and
	// leaves nothing behind. Default 64 GiB; negative: no bound.
	MaxImageSize int64
	// MaxImageFiles bounds the files of one image likewise. Unpacking a layer takes some 200 bytes of
	// memory for each of its files. Default 2 million; negative: no bound.
	MaxImageFiles int64
	// Pinned are images that the kubelet must not collect: references as in [Image.RepoTags], where a *
	// at the end or at both ends matches anything.
	Pinned []string
	// VerifierDir holds the programs that decide about a pull (containerd's docs/image-verification.md);
	// a directory that does not exist or is empty lets everything pass. "" asks nobody.
	VerifierDir string
	// VerifierTimeout bounds each of them. Default 10 seconds.
	VerifierTimeout time.Duration
	// DiscardBlobs drops compressed layers once they are unpacked: about a third less disk, but such an
	// image cannot be exported.
	DiscardBlobs bool
	// Volatile mounts the writable layer of containers so that nothing in it is ever forced to disk: a
	// container's fsync returns at once and its removal does not wait for writeback. No container of the
	// CRI outlives a reboot with its root file system, so that only slow disks lose. Ignored on kernels
	// before 5.10.
	Volatile bool
	// ResumeFor is how long the parts that a failed or killed pull had got are kept for the next one.
	// Default 1 hour; negative: not at all.
	ResumeFor time.Duration
}

func (o *Options) setDefaults() {
	if o.CertDirs == nil {
		o.CertDirs = []string{"/etc/embedcri/certs.d", "/etc/containerd/certs.d"}
	}
	setDefault(&o.MaxDownloads, 6)
	setDefault(&o.ProgressTimeout, 5*time.Minute)
	setDefault(&o.MaxImageSize, 64<<30)
	setDefault(&o.MaxImageFiles, 2_000_000)
	setDefault(&o.VerifierTimeout, 10*time.Second)
	setDefault(&o.ResumeFor, time.Hour)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (o *Options) validate() error {
	var errs []error
	if !filepath.IsAbs(o.Root) {
		errs = append(errs, fmt.Errorf("root %q is not an absolute path", o.Root))
	}
	if strings.ContainsAny(o.Root, ",:\\\"\n") {
		errs = append(errs, fmt.Errorf("root %q has a character that overlay mount options cannot carry", o.Root))
	}
	if o.Snapshotter != "" && o.Snapshotter != Overlay && o.Snapshotter != Native {
		errs = append(errs, fmt.Errorf("snapshotter %q is neither %s nor %s", o.Snapshotter, Overlay, Native))
	}
	if o.MaxDownloads < 0 {
		errs = append(errs, fmt.Errorf("max downloads %d is negative", o.MaxDownloads))
	}
	if o.ProgressTimeout < 0 {
		errs = append(errs, fmt.Errorf("progress timeout %v is negative", o.ProgressTimeout))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}
