// SPDX-License-Identifier: Apache-2.0

package image

import (
	"slices"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is one unpacked image of the store. It is a value that nobody changes: callers may keep it,
// and must not write into its slices and maps.
type Image struct {
	// ID is the digest of the image's configuration, "sha256:…". It is the same in every call of the
	// CRI: in PullImage's answer, in ListImages and in the status of containers.
	ID string
	// RepoTags are the names that point here, like "docker.io/library/busybox:1", sorted. It is empty
	// after every tag has moved to another image.
	RepoTags []string
	// RepoDigests are the names by digest of manifest or index, "docker.io/library/busybox@sha256:…",
	// sorted.
	RepoDigests []string
	// Size is the disk space in bytes of the unpacked layers and the kept blobs. Layers shared with
	// other images are counted in each.
	Size uint64
	// Platform is what the image's configuration says it was made for.
	Platform ocispec.Platform
	// Config holds user, entry point, environment and so on.
	Config ocispec.ImageConfig
	// Created is when the image was built, as its maker says; nil if the maker does not.
	Created *time.Time
	// Pinned tells the kubelet to leave the image alone ([Options.Pinned]).
	Pinned bool

	// chainID names the snapshot of the topmost layer; "" for an image without layers.
	chainID string
	// target is the manifest or index that the image was pulled by; config is its configuration.
	target, config ocispec.Descriptor
	// recordNames are the names of the image's records in the database.
	recordNames []string
}

// Name is what to call the image in a message: a tag if there is one, else a digest, else the id.
func (i *Image) Name() string {
	return slices.Concat(i.RepoTags, i.RepoDigests, []string{i.ID})[0]
}
