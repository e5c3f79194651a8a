// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxImageVolumes bounds how many volumes an image may declare: each becomes a mount.
const maxImageVolumes = 128

// ImageVolumes returns the paths for which an image declares a volume (config.Volumes) and the container mounts nothing, sorted.
// What becomes of them is the node's policy. Pure.
func ImageVolumes(image ocispec.ImageConfig, mounts []*runtimeapi.Mount) ([]string, error) {
	var out []string
	for v := range image.Volumes {
		p := path.Join("/", v) // builders write relative paths too, meaning below the root
		if p == "/" || strings.IndexByte(p, 0) >= 0 {
			return nil, fmt.Errorf("volume %q of the image: not a path below the root: %w", v, errdefs.ErrInvalidArgument)
		}
		if !slices.ContainsFunc(mounts, func(m *runtimeapi.Mount) bool { return path.Clean(m.GetContainerPath()) == p }) {
			out = append(out, p)
		}
	}
	if len(out) > maxImageVolumes {
		return nil, fmt.Errorf("image declares %d volumes; at most %d are supported: %w", len(out), maxImageVolumes, errdefs.ErrInvalidArgument)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}
