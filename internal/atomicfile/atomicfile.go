// SPDX-License-Identifier: Apache-2.0

// Package atomicfile replaces a file as a whole: a reader, and a daemon that starts after a SIGKILL, sees the old content or the
// new one, never a part.
package atomicfile

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Durability says what a write has to survive.
type Durability int

const (
	// Process survives the death of this process, not necessarily a power loss: it is in the page cache, and on its way to the
	// disk a second later. For as long there is a hidden file beside it.
	Process Durability = iota
	// Power survives a power loss: the file and its directory are synced before Write returns.
	Power
)

// TempPattern matches (path.Match) the names of the files that Write makes beside the one it is about to replace. One that is older
// than its process was left by a kill.
const TempPattern = ".*.json.*"

// Write replaces path by data with mode perm. The temporary file lies beside it, so that the rename stays within one file system
// (rename(2) is atomic only there).
func Write(path string, data []byte, perm os.FileMode, d Durability) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if d == Power {
		if err := f.Sync(); err != nil {
			return fmt.Errorf("sync %s: %w", path, err)
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	if d == Process {
		old, err := swap(f.Name(), path)
		if err != nil {
			return err
		}
		time.AfterFunc(settleAfter, func() { settle(old, path) })
		return nil
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// settleAfter is how long a file of Process durability is left to the page cache. Records change several times within a second, and
// then no more for long; only what stays need be written. The kernel itself would take up to half a minute
// (vm.dirty_expire_centisecs), and what has not been written is an empty file after a power loss.
const settleAfter = time.Second

// settle removes what path has replaced, and begins to write path. By now their directory may be gone.
func settle(old, path string) {
	if old != "" {
		_ = os.Remove(old)
	}
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
}

// swap puts temporary in path's place, and what was there in temporary's: old, empty if there was nothing. Not by a rename onto path: ext4 takes that for somebody
// who forgot fsync and begins to write the new file before it returns (auto_da_alloc in its documentation), and it frees the old
// file's blocks; together they are most of what a small write costs, 0.4 ms rather than 0.07. An exchange is the same to readers,
// and does neither.
func swap(temporary, path string) (old string, err error) {
	if unix.Renameat2(unix.AT_FDCWD, temporary, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE) == nil {
		return temporary, nil
	}
	return "", os.Rename(temporary, path) // there is no old file, or the file system has no exchange
}

// SyncDir makes the names in dir durable (fsync(2): syncing a file does not sync its directory entry).
func SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
