// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/containerd/errdefs"
)

// DefaultCapacity is the number of slots if Options.Capacity is 0: 4,096
// containers with three execs each at any one time.
const DefaultCapacity = 16384

// SlotMemory is the kernel memory one slot takes, in bytes: 272 for the hash
// table's element (head, key and value) and 16 for its bucket. All of it is
// allocated by Open: 4.7 MB for 16,384 slots, and 1.7 MB for the other maps.
const SlotMemory = 288

// maxCapacity keeps a slip in the configuration from eating the machine (300 MB).
const maxCapacity = 1 << 20

// Options say where the records live and how many there may be.
type Options struct {
	// Dir is a directory of a BPF file system, by custom /sys/fs/bpf/embedcri,
	// that belongs to this daemon alone. It is made if it is missing; if it is
	// not on a BPF file system one is mounted: see Open.
	Dir string
	// Capacity is the number of slots: processes alive and watched, plus exits
	// not yet forgotten. 0: DefaultCapacity. If it differs from what is pinned
	// the records are moved; it cannot be smaller than what is in use.
	Capacity int
	// Require makes Open fail where BPF cannot be used, instead of going on with
	// less (see Mode).
	Require bool

	// object replaces the BPF object, in tests.
	object func() (*ebpf.CollectionSpec, error)
	// layouts replaces the known layouts, in tests.
	layouts layouts
}

func (o *Options) complete() error {
	if o.Capacity == 0 {
		o.Capacity = DefaultCapacity
	}
	if o.Capacity < 1 || o.Capacity > maxCapacity {
		return fmt.Errorf("capacity %d is not within 1 and %d: %w", o.Capacity, maxCapacity, errdefs.ErrInvalidArgument)
	}
	if !filepath.IsAbs(o.Dir) {
		return fmt.Errorf("directory %q is not an absolute path: %w", o.Dir, errdefs.ErrInvalidArgument)
	}
	o.Dir = filepath.Clean(o.Dir)
	if o.object == nil {
		o.object = loadExit
	}
	if o.layouts == nil {
		o.layouts = knownLayouts()
	}
	return nil
}

// Mode says what a tracer works with.
type Mode struct {
	// BPF: exits are recorded by the kernel and survive this process.
	BPF bool
	// Err is why BPF could not be used; a verifier's log is part of its text
	// with %+v. Nil if BPF is true.
	Err error
	// ExitInfo: the kernel tells the status of reaped processes through a pidfd
	// (Linux 6.15). Only matters without BPF.
	ExitInfo bool
}

// String says it in one line, fit for a condition message.
func (m Mode) String() string {
	if m.BPF {
		return "exits are recorded by BPF and survive a restart"
	}
	s := fmt.Sprintf("degraded: exits are known by waitid and pidfd only, those during a restart are lost: %v", m.Err)
	if m.ExitInfo {
		s += "; kernel has pidfd exit info"
	}
	return s
}
