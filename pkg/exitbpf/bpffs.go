// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// systemMount is where a BPF file system is by custom (systemd mounts it
	// there). sysfs makes the directory and lets nobody make others.
	systemMount = "/sys/fs/bpf"
	// mountSource marks the mounts that are ours to undo.
	mountSource = "embedcri"
)

// lockMounts keeps other daemons from mounting and unmounting the system's BPF
// file system until unlock: one that starts must not put its directory into a
// mount that another, which ends, has found empty and is about to take away.
func lockMounts() (unlock func() error, err error) {
	f, err := os.Open(filepath.Dir(systemMount))
	if err != nil {
		return nil, err
	}
	for {
		switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err {
		case nil:
			return f.Close, nil
		case unix.EINTR:
		default:
			return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
		}
	}
}

// ensureBPFFS makes dir, on a BPF file system.
func ensureBPFFS(dir string) (err error) {
	unlock, err := lockMounts()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if strings.HasPrefix(dir, systemMount+"/") {
		if err := mountBPFFS(systemMount); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return mountBPFFS(dir)
}

func mountBPFFS(at string) error {
	ok, err := isBPFFS(at)
	if ok || err != nil {
		return err
	}
	if err := unix.Mount(mountSource, at, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount BPF file system on %s: %w", at, err)
	}
	return nil
}

func isBPFFS(path string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return false, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	return uint32(st.Type) == unix.BPF_FS_MAGIC, nil
}

var errInUse = fmt.Errorf("in use by another daemon: %w", errdefs.ErrUnavailable)

// lockWait is for a predecessor that was killed and whose descriptors are still
// being closed.
const lockWait = time.Second

// lockDir takes dir for this process alone, until the file is closed. Pinned
// objects cannot be opened, but the directory can, and any directory can be locked.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(lockWait); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case err == unix.EWOULDBLOCK && time.Now().Before(end):
		case err == unix.EWOULDBLOCK:
			return nil, errors.Join(errInUse, f.Close())
		case err != unix.EINTR:
			return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
		}
	}
}

// Cleanup takes everything away that Open has left under dir: the programs are
// detached, the records are gone, and a BPF file system that Open mounted is
// unmounted. A dir that does not exist is fine; one in use is an errdefs.ErrUnavailable.
func Cleanup(dir string) error {
	if err := cleanup(filepath.Clean(dir)); err != nil {
		return fmt.Errorf("clean up exit tracer in %s: %w", dir, err)
	}
	return nil
}

func cleanup(dir string) error {
	if ok, err := isBPFFS(dir); errors.Is(err, fs.ErrNotExist) {
		return unmountOurs(systemMountOf(dir))
	} else if err != nil || !ok {
		return err
	}
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	layouts, err := filepath.Glob(filepath.Join(dir, "v[0-9]*"))
	errs = append(errs, err)
	for _, l := range layouts {
		errs = append(errs, os.RemoveAll(l))
	}
	errs = append(errs, lock.Close()) // else the mount is busy
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := unmountOurs(dir); err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EBUSY) {
		return err // EBUSY: a mount, not ours
	}
	return unmountOurs(systemMountOf(dir))
}

func systemMountOf(dir string) string {
	if strings.HasPrefix(dir, systemMount+"/") {
		return systemMount
	}
	return ""
}

// unmountOurs unmounts the BPF file system at path if Open mounted it and
// nothing is left in it.
func unmountOurs(path string) (err error) {
	if path == "" {
		return nil
	}
	unlock, err := lockMounts()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	source, err := mountedFrom(path)
	if err != nil || source != mountSource {
		return err
	}
	left, err := os.ReadDir(path)
	// The kernel puts two iterators into each new mount (CONFIG_BPF_PRELOAD).
	left = slices.DeleteFunc(left, func(e fs.DirEntry) bool { return e.Name() == "maps.debug" || e.Name() == "progs.debug" })
	if err != nil || len(left) > 0 {
		return err
	}
	if err := unix.Unmount(path, 0); err != nil && err != unix.EBUSY { // EBUSY: somebody looks around in it
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return nil
}

// mountedFrom returns the source of the BPF file system mounted on path, "" if
// there is none. Format: proc_pid_mountinfo(5).
func mountedFrom(path string) (string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	escaped := strings.NewReplacer(`\`, `\134`, " ", `\040`, "\t", `\011`, "\n", `\012`).Replace(path)
	source := ""
	for line := range strings.Lines(string(b)) {
		head, tail, ok := strings.Cut(line, " - ")
		h, t := strings.Fields(head), strings.Fields(tail)
		if ok && len(h) > 4 && len(t) > 1 && h[4] == escaped && t[0] == "bpf" {
			source = t[1] // the last one is on top
		}
	}
	return source, nil
}
