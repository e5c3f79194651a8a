// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Filesystem is a mounted file system as a whole.
type Filesystem struct {
	Device             string // path below /dev; its number if it has none
	Bytes              uint64
	Inodes, InodesFree uint64
}

// ReadFilesystem tells about the file system that path is on. It asks the kernel and walks nothing.
func ReadFilesystem(path string) (Filesystem, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Filesystem{}, fmt.Errorf("stat %s: %w", path, err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return Filesystem{}, fmt.Errorf("statfs %s: %w", path, err)
	}
	var names deviceNames
	return Filesystem{
		Device: names.name(unix.Major(st.Dev), unix.Minor(st.Dev)),
		Bytes:  fs.Blocks * uint64(fs.Bsize), Inodes: fs.Files, InodesFree: fs.Ffree,
	}, nil
}
