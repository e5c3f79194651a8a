// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// parseReference reads a name as people and the kubelet write it ("busybox", "quay.io/a/b:1@sha256:…")
// and completes it: registry, "library/" and ":latest" where they are left out. A name with both tag
// and digest is one by digest: the tag is dropped, as it says nothing once the digest is known.
func parseReference(ref string) (reference.Named, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return nil, fmt.Errorf("image reference %q: %w: %w", ref, err, errdefs.ErrInvalidArgument)
	}
	return named, nil
}

// records returns the names under which an image pulled as named, whose manifest or index has the
// given digest, is kept in the database: its tag if it was pulled by one, and its digest.
func records(named reference.Named, target digest.Digest) ([]string, error) {
	name := reference.TrimNamed(named)
	canonical, err := reference.WithDigest(name, target)
	if err != nil {
		return nil, fmt.Errorf("reference %s by digest %s: %w", name, target, err)
	}
	names := []string{canonical.String()}
	if tagged, ok := named.(reference.NamedTagged); ok {
		names = append(names, name.String()+":"+tagged.Tag())
	}
	return names, nil
}

// isID reports whether a record is named by an image id and not by a reference. References cannot be
// mistaken for it: parseReference has put a registry in front of them.
func isID(record string) bool { return strings.HasPrefix(record, "sha256:") }

// trimID turns "sha256:3f2a" and "3f2a" into "3f2a", and says whether that can begin an image id.
func trimID(ref string) (string, bool) {
	hex := strings.TrimPrefix(ref, "sha256:")
	if hex == "" || len(hex) > 64 {
		return "", false
	}
	for _, c := range hex {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", false
		}
	}
	return hex, true
}

// matchPinned tells whether one of the patterns of [Options.Pinned] matches one of an image's names.
func matchPinned(patterns []string, names ...string) bool {
	for _, pattern := range patterns {
		for _, name := range names {
			if matchPattern(pattern, name) {
				return true
			}
		}
	}
	return false
}

// matchPattern knows exact names, name* and *name*, like CRI-O's pinned_images. A pattern without a
// star may leave out what a reference may leave out.
func matchPattern(pattern, name string) bool {
	middle, end := strings.CutSuffix(pattern, "*")
	inner, begin := strings.CutPrefix(middle, "*")
	switch {
	case end && begin:
		return strings.Contains(name, inner)
	case end:
		return strings.HasPrefix(name, middle)
	case pattern == name:
		return true
	}
	named, err := parseReference(pattern)
	return err == nil && named.String() == name
}

// registryOf is the host that a reference names: "docker.io" for "docker.io/library/busybox:1".
func registryOf(named reference.Named) string { return reference.Domain(named) }
