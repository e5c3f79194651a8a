// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// checkManifest looks at the children of a manifest before any of them is fetched.
func (s *Store) checkManifest(manifest ocispec.Descriptor, children []ocispec.Descriptor, state *pullState) error {
	var layers []ocispec.Descriptor
	config := false
	total := int64(0)
	for _, c := range children {
		switch {
		case strings.HasSuffix(c.MediaType, "+encrypted"):
			return fmt.Errorf("layer %s is encrypted: %w", c.Digest, errdefs.ErrNotImplemented)
		case images.IsLayerType(c.MediaType):
			layers = append(layers, c)
			total += c.Size
		case images.IsConfigType(c.MediaType):
			config = true
		default:
			return fmt.Errorf("manifest %s is not of a container image, it holds a %q: %w", manifest.Digest, c.MediaType, errdefs.ErrInvalidArgument)
		}
	}
	if !config {
		return fmt.Errorf("manifest %s has no image configuration: %w", manifest.Digest, errdefs.ErrInvalidArgument)
	}
	if len(layers) > maxLayers {
		return fmt.Errorf("manifest %s has %d layers, overlayfs takes %d: %w", manifest.Digest, len(layers), maxLayers, errdefs.ErrInvalidArgument)
	}
	if limit := s.options.MaxImageSize; limit > 0 && total > limit {
		return tooLarge(limit)
	}
	state.setLayers(layers)
	return nil
}

// maxLayers is how many lower directories an overlay mount can have: OVL_MAX_STACK, fs/overlayfs/params.h.
const maxLayers = 500

// checkConfig looks at a configuration, which has been fetched, before the layers are unpacked by it. It must describe as many layers
// as the manifest has; whether they are the same ones is checked layer by layer.
func (s *Store) checkConfig(ctx context.Context, config ocispec.Descriptor, state *pullState) error {
	blob, err := content.ReadBlob(ctx, s.content, config)
	if err != nil {
		return err
	}
	var img ocispec.Image
	if err := json.Unmarshal(blob, &img); err != nil {
		return fmt.Errorf("image configuration %s: %w: %w", config.Digest, errdefs.ErrInvalidArgument, err)
	}
	if described, has := len(img.RootFS.DiffIDs), state.layerCount(); described != has {
		return fmt.Errorf("image configuration %s describes %d layers, the manifest has %d: %w", config.Digest, described, has, errdefs.ErrInvalidArgument)
	}
	return nil
}
