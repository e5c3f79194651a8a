// SPDX-License-Identifier: Apache-2.0

// Package atomicfile replaces a file as a whole: a reader, and a daemon that starts after a SIGKILL, sees the old content or the
// new one, never a part.
package atomicfile

import (
	"fmt"
	"os"
	"path/filepath"
)

// Durability says what a write has to survive.
type Durability int

const (
	// Process survives the death of this process, not necessarily a power loss: a rename in the page cache.
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
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	if d == Power {
		return SyncDir(filepath.Dir(path))
	}
	return nil
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
