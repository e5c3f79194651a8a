// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	continuity "github.com/containerd/continuity/fs"
	"golang.org/x/sys/unix"
)

// Layers of one image are unpacked at the same time, each into a snapshot that sees nothing of the ones below; containerd's unpacker
// puts them on top of each other when they are committed, in their order. One thing of a layer depends on those below: a directory
// that is in the paths of the layer's files and has no entry of its own there is a directory of a lower layer, with that one's owner
// and mode. Few layers have such directories. They are remembered while the layer is unpacked, and looked up when it is committed.

// stacking is the snapshotter that the unpacker works with.
type stacking struct {
	snapshots.Snapshotter
	undescribed undescribed
}

// Commit gives the directories that the layer does not describe the attributes that they have in the layers below.
func (s *stacking) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	if err := s.inherit(ctx, key, opts); err != nil {
		return fmt.Errorf("directories of layer %s that are described below it: %w", name, err)
	}
	return s.Snapshotter.Commit(ctx, name, key, opts...)
}

func (s *stacking) inherit(ctx context.Context, key string, opts []snapshots.Opt) (err error) {
	mounts, err := s.Mounts(ctx, key)
	if err != nil {
		return err
	}
	root, _, err := directories(mounts)
	if err != nil {
		return err
	}
	dirs := s.undescribed.take(root)
	var info snapshots.Info
	for _, o := range opts {
		if err := o(&info); err != nil {
			return err
		}
	}
	if len(dirs) == 0 || info.Parent == "" {
		return nil
	}
	// A view, for where the layers below are; it has the name of a snapshot being unpacked, which a restart sweeps.
	view := extracting + randomName()
	mounts, err = s.View(ctx, view, info.Parent)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Remove(context.WithoutCancel(ctx), view)) }()
	top, below, err := directories(mounts)
	if err != nil {
		return err
	}
	if below == nil { // one layer: a bind mount
		below = []string{top}
	}
	for _, dir := range dirs {
		if err := inheritDir(root, dir, below); err != nil {
			return err
		}
	}
	return nil
}

// inheritDir gives one directory below root the attributes that it has in the first of the layers that has it.
func inheritDir(root, dir string, below []string) error {
	target, err := continuity.RootPath(root, dir)
	if err != nil {
		return err
	}
	if info, err := os.Lstat(target); err != nil || !info.IsDir() {
		return err
	}
	for _, layer := range below {
		source, err := continuity.RootPath(layer, dir)
		if errors.Is(err, unix.ENOTDIR) {
			return nil // something above it was replaced: nothing shines through
		}
		if err != nil {
			return err
		}
		info, err := os.Lstat(source)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case errors.Is(err, unix.ENOTDIR), err == nil && !info.IsDir():
			return nil
		case err != nil:
			return err
		}
		return copyAttributes(target, source, info)
	}
	return nil
}

func copyAttributes(target, source string, info fs.FileInfo) error {
	st := info.Sys().(*syscall.Stat_t)
	if err := os.Lchown(target, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := os.Chmod(target, info.Mode()); err != nil {
		return err
	}
	names := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Llistxattr(source, names)
	if err != nil && !errors.Is(err, unix.ENOTSUP) {
		return fmt.Errorf("list attributes of %s: %w", source, err)
	}
	for name := range strings.SplitSeq(string(names[:max(n, 0)]), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.") { // the latter are overlayfs's own
			continue
		}
		value := make([]byte, 64<<10) // XATTR_SIZE_MAX
		n, err := unix.Lgetxattr(source, name, value)
		if err == nil {
			err = unix.Lsetxattr(target, name, value[:n], 0)
		}
		if err != nil {
			return fmt.Errorf("copy attribute %s of %s: %w", name, source, err)
		}
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, target, []unix.Timespec{unix.Timespec(st.Atim), unix.Timespec(st.Mtim)}, unix.AT_SYMLINK_NOFOLLOW)
}

// directories are where a snapshot's own files are, and those of the layers below it, the topmost first. The mounts of a snapshot
// are one overlay or, without a layer below, one bind mount.
func directories(mounts []mount.Mount) (own string, below []string, err error) {
	if len(mounts) != 1 {
		return "", nil, fmt.Errorf("snapshot with %d mounts", len(mounts))
	}
	own = mounts[0].Source
	if mounts[0].Type != "overlay" {
		return own, nil, nil
	}
	for _, option := range mounts[0].Options {
		if dir, ok := strings.CutPrefix(option, "upperdir="); ok {
			own = dir
		} else if dirs, ok := strings.CutPrefix(option, "lowerdir="); ok {
			below = strings.Split(dirs, ":")
		}
	}
	return own, below, nil
}

// layout collects the directories of a layer while it is unpacked.
type layout struct {
	described map[string]bool // with an entry
	used      map[string]bool // in the path of an entry
}

func newLayout() *layout { return &layout{described: map[string]bool{}, used: map[string]bool{}} }

func (l *layout) add(h *tar.Header) {
	name := path.Join("/", h.Name)
	if h.Typeflag == tar.TypeDir {
		l.described[name] = true
	}
	for dir := path.Dir(name); dir != "/" && !l.used[dir]; dir = path.Dir(dir) {
		l.used[dir] = true
	}
}

// undescribed lists the directories without an entry, parents first. Names that lead over symbolic links of the layer itself count
// as what they lead to.
func (l *layout) undescribed(root string) (dirs []string, err error) {
	maps.DeleteFunc(l.used, func(dir string, _ bool) bool { return l.described[dir] })
	if len(l.used) == 0 {
		return nil, nil
	}
	real := func(dir string) (string, error) {
		p, err := continuity.RootPath(root, dir)
		return filepath.Join("/", strings.TrimPrefix(p, root)), err
	}
	described := map[string]bool{}
	for dir := range l.described {
		if dir, err = real(dir); err != nil {
			return nil, err
		}
		described[dir] = true
	}
	found := map[string]bool{}
	for dir := range l.used {
		if dir, err = real(dir); err != nil {
			return nil, err
		}
		for ; dir != "/" && !described[dir]; dir = path.Dir(dir) {
			found[dir] = true
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// undescribed keeps, between a layer's unpacking and its commit, its directories that need attributes, by the layer's root. The zero
// value is ready.
type undescribed struct {
	mu sync.Mutex
	m  map[string][]string
}

func (u *undescribed) put(root string, dirs []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.m == nil {
		u.m = map[string][]string{}
	}
	u.m[root] = dirs
}

func (u *undescribed) take(root string) []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	dirs := u.m[root]
	delete(u.m, root)
	return dirs
}
