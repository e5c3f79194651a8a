// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/embedcri/embedcri/internal/testregistry"
)

// TestDirectoriesOfLowerLayers: layers that are unpacked without those below them have, once they are on top of each other, the
// directories that they would have had if they had been unpacked one after the other.
func TestDirectoriesOfLowerLayers(t *testing.T) {
	owned := func(e testregistry.Entry, uid, gid int) testregistry.Entry {
		e.Uid, e.Gid = uid, gid
		return e
	}
	xattr := func(e testregistry.Entry, name, value string) testregistry.Entry {
		e.PAXRecords = map[string]string{"SCHILY.xattr." + name: value}
		return e
	}
	layers := [][]testregistry.Entry{
		{
			xattr(owned(testregistry.Dir("data", 0o750), 1000, 2000), "user.color", "blue"),
			owned(testregistry.Dir("data/sub", 0o700), 1001, 2001),
			testregistry.Dir("real", 0o711), testregistry.Dir("sticky", 0o1777),
			testregistry.Dir("gone", 0o700), testregistry.Dir("gone/below", 0o700),
		},
		{testregistry.File("data/sub/first", 0o600, []byte("1")), testregistry.Whiteout("gone")},
		{
			testregistry.File("data/sub/second", 0o600, []byte("2")),
			testregistry.Symlink("link", "/real"), testregistry.File("link/third", 0o644, nil),
			testregistry.File("gone/below/again", 0o644, nil), // nothing shines through the whiteout
			testregistry.File("only/here", 0o644, nil),
		},
		// Described after its use, and differently from below.
		{testregistry.File("sticky/file", 0o644, nil), testregistry.Dir("sticky", 0o755)},
	}
	var built []v1.Layer
	for _, entries := range layers {
		l, err := testregistry.Layer(entries...)
		if err != nil {
			t.Fatal(err)
		}
		built = append(built, l)
	}
	img, err := testregistry.Build("", nil, built...)
	if err != nil {
		t.Fatal(err)
	}
	ref, _ := testregistry.Start(t, testregistry.Options{}).Push(t, "dirs:1", img)

	want := map[string]string{
		"data": "drwxr-x--- 1000:2000", "data/sub": "drwx------ 1001:2001", "data/sub/first": "-rw------- 0:0",
		"data/sub/second": "-rw------- 0:0", "real": "drwx--x--x 0:0", "real/third": "-rw-r--r-- 0:0", "link": "Lrwxrwxrwx 0:0",
		"sticky": "drwxr-xr-x 0:0", "sticky/file": "-rw-r--r-- 0:0",
		"gone": "drwxr-xr-x 0:0", "gone/below": "drwxr-xr-x 0:0", "gone/below/again": "-rw-r--r-- 0:0",
		"only": "drwxr-xr-x 0:0", "only/here": "-rw-r--r-- 0:0",
	}
	for _, snapshotter := range []string{Overlay, Native} {
		t.Run(snapshotter, func(t *testing.T) {
			s := open(t, Options{Snapshotter: snapshotter})
			root := rootfs(t, s, "c1", pull(t, s, ref).ID)
			if got := listing(t, root); !maps.Equal(got, want) {
				for name, w := range want {
					if got[name] != w {
						t.Errorf("%s is %q, want %q", name, got[name], w)
					}
				}
				t.Logf("all: %v", got)
			}
			color := make([]byte, 10)
			if n, err := syscall.Getxattr(filepath.Join(root, "data"), "user.color", color); err != nil || string(color[:n]) != "blue" {
				t.Errorf("attribute of data: %q, %v", color[:max(n, 0)], err)
			}
			err := s.snapshots.Walk(s.scoped(t.Context()), func(_ context.Context, info snapshots.Info) error {
				if strings.HasPrefix(info.Name, extracting) {
					t.Errorf("snapshot %s is left", info.Name)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// listing maps the paths below root to their mode and owner.
func listing(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		name, _ := filepath.Rel(root, path)
		all[name] = fmt.Sprintf("%v %d:%d", info.Mode(), st.Uid, st.Gid)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
