// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/testregistry"
)

// hostile is an image that its maker means ill with. It is unpacked over a harmless layer.
type hostile struct {
	entries []testregistry.Entry
	second  []testregistry.Entry // one more layer, if any
	fails   string               // the pull fails, and says this; "" if it succeeds
	check   func(t *testing.T, root string)
}

// victim stands outside of every root. It is where the entries below try to get.
const victim = "/tmp/embedcri-hostile-victim"

func hostileImages() map[string]hostile {
	node := func(kind byte, major, minor int64) testregistry.Entry {
		return testregistry.Entry{Header: tar.Header{Name: "node", Typeflag: kind, Mode: 0o666, Devmajor: major, Devminor: minor}}
	}
	evil := []byte("evil")
	return map[string]hostile{
		"dots": {entries: []testregistry.Entry{testregistry.File("../../../../../.."+victim+"/dots", 0o644, evil)}},
		"absolute name": {entries: []testregistry.Entry{testregistry.File(victim+"/absolute", 0o644, evil)}, check: func(t *testing.T, root string) {
			if _, err := os.Stat(filepath.Join(root, victim, "absolute")); err != nil {
				t.Errorf("an absolute name belongs below the root: %v", err)
			}
		}},
		"through absolute symlink": {entries: []testregistry.Entry{
			testregistry.Symlink("link", victim), testregistry.File("link/through", 0o644, evil)}},
		"through relative symlink": {entries: []testregistry.Entry{
			testregistry.Symlink("link", "../../../../../../../../../../.."+victim), testregistry.File("link/through", 0o644, evil)}},
		"through symlink of a layer below": {
			entries: []testregistry.Entry{testregistry.Symlink("link", victim)},
			second:  []testregistry.Entry{testregistry.File("link/below", 0o644, evil), testregistry.Whiteout("link/precious")}},
		"over a symlink": {entries: []testregistry.Entry{
			testregistry.Symlink("f", victim+"/precious"), testregistry.File("f", 0o644, evil)}},
		"directory over a symlink": {entries: []testregistry.Entry{
			testregistry.Symlink("d", victim), testregistry.Dir("d", 0o777), testregistry.File("d/over", 0o644, evil)}},
		"looping symlinks": {entries: []testregistry.Entry{
			testregistry.Symlink("a", "b"), testregistry.Symlink("b", "a"), testregistry.File("a/x", 0o644, evil)}, fails: "too many"},
		"hard link out": {entries: []testregistry.Entry{
			testregistry.Hardlink("hard", "../../../../../../.."+victim+"/precious")}, fails: "no such file"},
		"hard link through symlink": {entries: []testregistry.Entry{
			testregistry.Symlink("link", victim), testregistry.Hardlink("hard", "link/precious")}, fails: "no such file"},
		"hard link, then overwrite": {entries: []testregistry.Entry{
			testregistry.Symlink("s", victim+"/precious"), testregistry.Hardlink("hard", "s"), testregistry.File("hard", 0o644, evil)}},
		"device": {entries: []testregistry.Entry{node(tar.TypeBlock, 254, 0), testregistry.File("node/x", 0o644, evil)}, fails: "not a directory"},
		"char device": {entries: []testregistry.Entry{node(tar.TypeChar, 1, 3)}, check: func(t *testing.T, root string) {
			var st syscall.Stat_t
			if err := syscall.Stat(filepath.Join(root, "node"), &st); err != nil || st.Rdev != unix.Mkdev(1, 3) {
				t.Errorf("device node: %v, %v", st.Rdev, err)
			}
		}},
		"fifo": {entries: []testregistry.Entry{node(tar.TypeFifo, 0, 0)}},
		"whiteout of the root": {second: []testregistry.Entry{
			testregistry.File(".wh..", 0o644, nil), testregistry.File(".wh...", 0o644, nil)}, fails: "whiteout"},
		"opaque root": {second: []testregistry.Entry{testregistry.File(".wh..wh..opq", 0o644, nil)}},
		"whiteout out": {second: []testregistry.Entry{
			testregistry.File("../../../../../.."+victim+"/.wh.precious", 0o644, nil)}},
		"duplicates": {entries: []testregistry.Entry{
			testregistry.File("f", 0o644, []byte("1")), testregistry.Dir("f", 0o755), testregistry.File("f/g", 0o644, nil),
			testregistry.Symlink("f", "/"), testregistry.File("f", 0o600, []byte("last"))},
			check: func(t *testing.T, root string) {
				if b, err := os.ReadFile(filepath.Join(root, "f")); err != nil || string(b) != "last" {
					t.Errorf("the last of several entries counts: %q, %v", b, err)
				}
			}},
		"root itself": {entries: []testregistry.Entry{
			testregistry.Dir(".", 0o777), testregistry.Dir("/", 0o777), testregistry.Symlink("..", victim)}},
		"overlay attributes": {entries: []testregistry.Entry{
			{Header: tar.Header{Name: "d", Typeflag: tar.TypeDir, Mode: 0o755, PAXRecords: map[string]string{
				"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.trusted.overlay.redirect": "/../../.." + victim,
				"SCHILY.xattr.user.note": "kept"}}},
		}, check: func(t *testing.T, root string) {
			b := make([]byte, 16)
			if n, err := unix.Getxattr(filepath.Join(root, "d"), "user.note", b); err != nil || string(b[:n]) != "kept" {
				t.Errorf("ordinary attribute: %q, %v", b[:max(n, 0)], err)
			}
		}},
		"unknown type":      {entries: []testregistry.Entry{{Header: tar.Header{Name: "x", Typeflag: 'Z'}}}, fails: "unhandled"},
		"cut off":           {entries: []testregistry.Entry{{Header: tar.Header{Name: "x", Typeflag: tar.TypeReg}, Body: evil, LyingSize: 1 << 20}}, fails: "unexpected EOF"},
		"larger than large": {entries: []testregistry.Entry{{Header: tar.Header{Name: "x", Typeflag: tar.TypeReg}, Body: evil, LyingSize: 1 << 62}}, fails: "more than"},
	}
}

func TestHostileLayers(t *testing.T) {
	if err := os.MkdirAll(victim, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(victim) })
	if err := os.WriteFile(filepath.Join(victim, "precious"), []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	reg := testregistry.Start(t, testregistry.Options{})
	for _, snapshotter := range []string{Overlay, Native} {
		s := open(t, Options{Snapshotter: snapshotter, MaxImageSize: 64 << 20})
		for name, h := range hostileImages() {
			t.Run(snapshotter+"/"+name, func(t *testing.T) {
				ref := pushHostile(t, reg, strings.ReplaceAll(strings.ToLower(strings.ReplaceAll(name, ",", "")), " ", "-"), h)
				img, err := s.Pull(t.Context(), PullRequest{Ref: ref})
				switch {
				case h.fails == "" && err != nil:
					t.Error(err)
				case h.fails != "" && (err == nil || !strings.Contains(err.Error(), h.fails)):
					t.Errorf("pull: %v, want an error with %q", err, h.fails)
				case err == nil:
					root := rootfs(t, s, "c-"+snapshotter+strings.ReplaceAll(name, " ", "-"), img.ID)
					if h.check != nil {
						h.check(t, root)
					}
				}
				wantFiles(t, victim, "precious")
				fi, err := os.Stat(filepath.Join(victim, "precious"))
				if err != nil || fi.Size() != 8 || fi.Mode() != 0o600 || fi.Sys().(*syscall.Stat_t).Nlink != 1 {
					t.Errorf("the file outside: %+v, %v", fi, err)
				}
			})
		}
	}
}

func pushHostile(t *testing.T, reg *testregistry.Registry, name string, h hostile) string {
	t.Helper()
	var layers []v1.Layer
	for _, entries := range [][]testregistry.Entry{{testregistry.File("harmless", 0o644, nil)}, h.entries, h.second} {
		if entries == nil {
			continue
		}
		layer, err := testregistry.Layer(entries...)
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, layer)
	}
	img, err := testregistry.Build("", nil, layers...)
	if err != nil {
		t.Fatal(err)
	}
	ref, _ := reg.Push(t, name+":1", img)
	return ref
}
