// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// file is one file of cgroupfs, kept open between reads if there are descriptors to spare. It does not use os.File, which would
// register each with the runtime's poller: kernfs files can be polled.
type file struct {
	fd     int  // -1: not open
	absent bool // the kernel has no such file; it is not looked for again
}

// fileSet reads the files of one cgroup. It is used by one goroutine at a time.
type fileSet struct {
	keep  bool
	files map[string]*file // by path
}

func newFileSet(keep bool) *fileSet { return &fileSet{keep: keep, files: map[string]*file{}} }

// errGone says that the cgroup does not exist any more.
var errGone = errors.New("cgroup is gone")

// bufSize is enough for every file that is read at once; the largest, memory.stat, is below 4 KiB even on large machines.
const bufSize = 32 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, bufSize); return &b }}

// read reads name in dir into buf: nil if there is no such file, errGone if the cgroup has been removed.
func (s *fileSet) read(dir, name string, buf []byte) ([]byte, error) {
	path := filepath.Join(dir, name)
	f := s.files[path]
	if f == nil {
		f = &file{fd: -1}
		s.files[path] = f
	}
	if f.absent {
		return nil, nil
	}
	if f.fd < 0 {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			f.absent = true
			return nil, nil
		}
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		f.fd = fd
	}
	b, err := readAll(f.fd, buf)
	if !s.keep || err != nil {
		unix.Close(f.fd)
		f.fd = -1
	}
	switch {
	case err == nil:
		return b, nil
	case errors.Is(err, unix.ENODEV): // kernfs: the file's cgroup was removed
		return nil, errGone
	case errors.Is(err, unix.EOPNOTSUPP): // PSI is compiled in, but switched off (psi=0)
		f.absent = true
		return nil, nil
	}
	return nil, fmt.Errorf("read %s: %w", path, err)
}

// readAll reads from the start. A file that the kernel makes in one piece comes in one read; a longer list takes several.
func readAll(fd int, buf []byte) ([]byte, error) {
	n := 0
	for n < len(buf) {
		m, err := unix.Pread(fd, buf[n:], int64(n))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		n += m
		if m == 0 || n < shortFile && n == m {
			break
		}
	}
	return buf[:n], nil
}

// shortFile is a first read that is surely all there is: seq_file fills at least a page before it makes a reader come again
// (fs/seq_file.c).
const shortFile = 2048

func (s *fileSet) close() {
	for _, f := range s.files {
		if f.fd >= 0 {
			unix.Close(f.fd)
			f.fd = -1
		}
	}
}
