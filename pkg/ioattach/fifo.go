// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openFIFO makes the FIFO path if it is not there and opens it. With uid or gid >= 0 a FIFO it
// makes belongs to them: opening /dev/stdout again (a magic link to this inode) checks its mode.
func openFIFO(path string, flags, uid, gid int) (int, error) {
	err := unix.Mkfifo(path, 0o600)
	switch {
	case err == nil && (uid >= 0 || gid >= 0):
		if err := os.Lchown(path, uid, gid); err != nil {
			return -1, err
		}
	case err != nil && !errors.Is(err, unix.EEXIST):
		return -1, &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	return reopenFIFO(path, flags)
}

// reopenFIFO opens a FIFO that exists, and nothing that is not one.
func reopenFIFO(path string, flags int) (int, error) {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		_ = unix.Close(fd)
		return -1, errors.Join(fmt.Errorf("%s is not a fifo", path), err)
	}
	return fd, nil
}

// growPipe asks for size bytes and returns what the pipe holds now. It may be refused: beyond
// /proc/sys/fs/pipe-max-size without CAP_SYS_RESOURCE, beyond pipe-user-pages-soft for a user
// with neither that nor CAP_SYS_ADMIN (fs/pipe.c, pipe_set_size). Less room is not an error: it
// only covers less of the daemon's absence.
func growPipe(fd, size int) int {
	for ; size > 64<<10; size /= 2 {
		if n, err := unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, size); err == nil {
			return n
		}
	}
	n, err := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		return 4096
	}
	return n
}
