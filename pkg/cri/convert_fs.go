// SPDX-License-Identifier: Apache-2.0

package cri

import (
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/pkg/image"
)

// fsInfo is what images and writable layers use, each in its own list.
func fsInfo(u image.StoreUsage) *runtimeapi.ImageFsInfoResponse {
	return &runtimeapi.ImageFsInfoResponse{
		ImageFilesystems:     []*runtimeapi.FilesystemUsage{fsUsage(u.Mountpoint, u.Images)},
		ContainerFilesystems: []*runtimeapi.FilesystemUsage{fsUsage(u.Mountpoint, u.Containers)},
	}
}

func fsUsage(mountpoint string, u image.Usage) *runtimeapi.FilesystemUsage {
	return &runtimeapi.FilesystemUsage{
		Timestamp:  max(nanoseconds(u.At), 1), // api.proto: must be > 0, and nothing measured yet has no time
		FsId:       &runtimeapi.FilesystemIdentifier{Mountpoint: mountpoint},
		UsedBytes:  &runtimeapi.UInt64Value{Value: u.Bytes},
		InodesUsed: &runtimeapi.UInt64Value{Value: u.Inodes},
	}
}
