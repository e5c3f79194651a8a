// SPDX-License-Identifier: Apache-2.0

// Package mount undoes mounts.
package mount

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// busyTries and busyWait bound how long Unmount waits for a mount that is in use, before it detaches it.
const (
	busyTries = 10
	busyWait  = 20 * time.Millisecond
)

// Unmount undoes all mounts on path, one on top of the other; none is success. What stays busy is detached (MNT_DETACH): it
// leaves the tree at once and goes when its last user does. Links are not followed.
func Unmount(path string) error {
	for try := 0; ; {
		err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
			try = 0 // there may be another below it
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT): // no mount point; umount(2)
			return nil
		case errors.Is(err, unix.EBUSY) && try < busyTries:
			try++
			time.Sleep(busyWait)
		case errors.Is(err, unix.EBUSY):
			if err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil {
				return fmt.Errorf("detach %s: %w", path, err)
			}
		default:
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
}

// RemoveDir undoes the mounts on path and removes it, which has to be an empty directory then: what lies below a mount that could
// not be undone is never deleted. An absent path is success.
func RemoveDir(path string) error {
	if err := Unmount(path); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
