// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/pkg/image"
)

func imageItem(i *image.Image) *runtimeapi.Image {
	uid, name := imageUser(i.Config.User)
	return &runtimeapi.Image{
		Id:          i.ID,
		RepoTags:    i.RepoTags,
		RepoDigests: i.RepoDigests,
		Size:        max(i.Size, 1), // api.proto: must be > 0; the kubelet divides by it
		Uid:         uid,
		Username:    name,
		Pinned:      i.Pinned,
	}
}

// imageUser splits the user of an image's configuration, "user[:group]" with numbers or names, into what the CRI has: a uid or a
// name, never both. With neither, the kubelet takes it for root, which it is.
func imageUser(user string) (*runtimeapi.Int64Value, string) {
	user, _, _ = strings.Cut(user, ":")
	if user == "" {
		return nil, ""
	}
	if uid, err := strconv.ParseInt(user, 10, 64); err == nil {
		return &runtimeapi.Int64Value{Value: uid}, ""
	}
	return nil, text(user)
}
