// SPDX-License-Identifier: Apache-2.0

// Package rootfsfile reads small files from a container's root file system, whose content nobody has vetted: /etc/passwd may be
// a link to the host's shadow file, a FIFO that never answers, a device that acts when opened, or 2 GiB of zeroes
// (CVE-2026-47262). Open gives a regular file inside the root, of bounded size, or an error, without waiting.
package rootfsfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// MaxSize is the limit for files such as /etc/passwd, in bytes: room for some 20,000 users.
const MaxSize = 1 << 20

var (
	// ErrNotRegular is what Open returns for a directory, FIFO, device or socket.
	ErrNotRegular = errors.New("not a regular file")
	// ErrTooLarge is what Open returns, or reading does, for a file beyond the limit.
	ErrTooLarge = errors.New("file too large")
)

// resolve is how the kernel walks the path: links, absolute ones too, and ".." stay below the root; links of /proc that jump
// elsewhere are refused; and no file system that happens to be mounted below is entered.
const resolve = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// Open opens the file called name, seen from root, for reading at most limit bytes. A missing file is fs.ErrNotExist; others
// that are not a file of that size are ErrNotRegular and ErrTooLarge. The caller closes what it gets. Needs Linux 5.6.
func Open(root, name string, limit int64) (io.ReadCloser, error) {
	f, err := open(root, name, limit)
	if err != nil {
		return nil, fmt.Errorf("open %s in the container's root: %w", name, err)
	}
	return f, nil
}

func open(root, name string, limit int64) (io.ReadCloser, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	// O_PATH opens nothing yet: a device's driver is not called, a FIFO's writer not woken.
	path, err := openat2(dir, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: resolve})
	if err != nil {
		return nil, err
	}
	defer unix.Close(path)
	var st unix.Stat_t
	if err := unix.Fstat(path, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, ErrNotRegular
	}
	if st.Size > limit {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, st.Size, limit)
	}
	// Now open the very same inode, through our own /proc. O_NONBLOCK for regular files that answer late, such as leased ones.
	f, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(path), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	return &file{f: f, left: limit}, nil
}

// openat2 retries what the kernel could not decide because of a concurrent rename (openat2(2), EAGAIN).
func openat2(dir int, name string, how *unix.OpenHow) (int, error) {
	for try := 0; ; try++ {
		fd, err := unix.Openat2(dir, name, how)
		if !(err == unix.EAGAIN && try < 32) && err != unix.EINTR {
			return fd, err
		}
	}
}

// file reads up to a limit, and fails rather than end early if there is more: the file may have grown since it was measured.
type file struct {
	f    *os.File
	left int64
}

func (r *file) Read(p []byte) (int, error) {
	if int64(len(p)) > r.left+1 {
		p = p[:r.left+1]
	}
	n, err := r.f.Read(p)
	if int64(n) > r.left {
		n, err = int(r.left), ErrTooLarge
	}
	r.left -= int64(n)
	return n, err
}

func (r *file) Close() error { return r.f.Close() }
