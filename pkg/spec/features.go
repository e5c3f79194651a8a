// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// oldestVersion is the version that every runtime in use accepts. It claims less than configurations use, which runtimes do not
// mind: they ignore what they do not know, and what needs support is asked of their features instead.
const oldestVersion = "1.0.2"

// WithFeatures completes a handler by what its OCI runtime says it can do (`<runtime> features`; nil for one that has no such
// command: runc before 1.1, crun before 1.8.6) on this node.
func (h Handler) WithFeatures(f *features.Features, n Node) Handler {
	h.OCIVersion, h.RecursiveReadOnly, h.IDMapMounts = oldestVersion, false, false
	if f == nil {
		return h
	}
	if f.OCIVersionMax != "" {
		h.OCIVersion = f.OCIVersionMax
	}
	if !olderVersion(h.OCIVersion, specs.Version) {
		h.OCIVersion = specs.Version
	}
	h.RecursiveReadOnly = n.MountSetattr && slices.Contains(f.MountOptions, "rro")
	if f.Linux != nil && f.Linux.MountExtensions != nil && f.Linux.MountExtensions.IDMap != nil {
		h.IDMapMounts = n.MountSetattr && value(f.Linux.MountExtensions.IDMap.Enabled)
	}
	return h
}

// olderVersion compares versions such as 1.0.2-dev by their numbers.
func olderVersion(a, b string) bool {
	numbers := func(v string) (out [3]int) {
		v, _, _ = strings.Cut(v, "-")
		for i, s := range strings.SplitN(v, ".", 3) {
			out[i], _ = strconv.Atoi(s) // a version that is none counts as 0, older than any
		}
		return out
	}
	x, y := numbers(a), numbers(b)
	return slices.Compare(x[:], y[:]) < 0
}
