// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/failpoint"
)

// kind is one sort of namespace that a pod may have of its own. Its name is that of the file in
// /proc/<pid>/ns and of the pin.
type kind struct {
	name string
	flag int // CLONE_NEW*
}

var (
	kindUser = kind{"user", unix.CLONE_NEWUSER}
	kindNet  = kind{"net", unix.CLONE_NEWNET}
	kindIPC  = kind{"ipc", unix.CLONE_NEWIPC}
	kindUTS  = kind{"uts", unix.CLONE_NEWUTS}
)

func kinds() []kind { return []kind{kindUser, kindNet, kindIPC, kindUTS} }

// pin keeps the namespace that is open at source alive under dir.
func (k kind) pin(source, dir string) error {
	target := filepath.Join(dir, k.name)
	// O_EXCL: a pin that is there already belongs to somebody.
	f, err := os.OpenFile(target, os.O_RDONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o444)
	if err != nil {
		return fmt.Errorf("create pin: %w", err)
	}
	f.Close()
	if err := failpoint.NamespacePin.Do(func() error { return unix.Mount(source, target, "", unix.MS_BIND, "") }); err != nil {
		return fmt.Errorf("pin %s namespace at %s: %w", k.name, target, err)
	}
	return nil
}

// unpin undoes pin, whole or half done. Nothing there is fine.
func (k kind) unpin(dir string) error {
	target := filepath.Join(dir, k.name)
	// Mounts may be stacked; EINVAL says that none is left. MNT_DETACH, because a process that has
	// the pin open (a plug-in, an nsenter) must not keep the pod from going: it then just holds its
	// own reference to the namespace.
	for {
		err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return fmt.Errorf("unmount pin %s: %w", target, err)
		}
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove pin: %w", err)
	}
	return nil
}

// Pinned reports whether a living namespace is pinned at path. After a reboot the file may still be
// there, with nothing mounted on it.
func Pinned(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// Prepare makes dir, the common parent of the pods' directories, a shared mount: a bind mount of
// itself where it is not a mount point yet. Idempotent; the daemon calls it on each start, before
// the first Create.
func Prepare(dir string) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("create namespace directory: %w", err)
	}
	mounted, err := isMountPoint(dir)
	if err != nil {
		return err
	}
	if !mounted {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind mount %s on itself: %w", dir, err)
		}
		// Its own peer group: a bind mount joins that of the mount it was made from, and then each
		// pin would also show up below the parent's copies.
		if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make %s private: %w", dir, err)
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make %s shared: %w", dir, err)
	}
	return nil
}

// Unprepare undoes Prepare; the directory stays. It is for `embedcri cleanup` and tests, and fails
// with EBUSY while a pod's namespaces are pinned. Idempotent.
func Unprepare(dir string) error {
	mounted, err := isMountPoint(dir)
	if err != nil || !mounted {
		return err
	}
	if err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

// isMountPoint asks the kernel (statx(2), Linux 5.8), so it also sees the bind mounts of a file
// system on itself that a comparison of device numbers misses. An absent path is no mount point.
func isMountPoint(path string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &st)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("statx %s: %w", path, err)
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}
