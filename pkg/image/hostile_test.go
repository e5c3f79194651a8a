// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/testenv"
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

// zeros is a tar of one file of size zero bytes, or, if sparse, of a header that only says so.
func zeros(t *testing.T, size int64) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Mode: 0o644, Size: size}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(w, zeroReader{}, size); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// sparse is a tar in GNU's sparse format 1.0, as POSIX extended headers: a file of size bytes that is
// all hole. Go's tar writer does not make them; its reader expands them.
func sparse(t *testing.T, size int64) []byte {
	t.Helper()
	var records bytes.Buffer
	for _, kv := range [][2]string{
		{"GNU.sparse.major", "1"}, {"GNU.sparse.minor", "0"}, {"GNU.sparse.name", "hole"},
		{"GNU.sparse.realsize", strconv.FormatInt(size, 10)},
	} {
		line := " " + kv[0] + "=" + kv[1] + "\n"
		n := len(line) + 2 // of two digits in every case here
		fmt.Fprintf(&records, "%d%s", n, line)
	}
	header := func(kind byte, name string, size int) []byte {
		h := make([]byte, 512)
		copy(h, name)
		copy(h[100:], "0000644\x000000000\x000000000\x00")
		copy(h[124:], fmt.Sprintf("%011o\x00%011o\x00        ", size, 0))
		h[156] = kind
		copy(h[257:], "ustar\x0000")
		sum := 0
		for _, c := range h {
			sum += int(c)
		}
		copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
		return h
	}
	pad := func(b []byte) []byte { return append(b, make([]byte, (512-len(b)%512)%512)...) }
	out := header('x', "pax", records.Len())
	out = append(out, pad(records.Bytes())...)
	fragments := pad(fmt.Appendf(nil, "1\n%d\n0\n", size)) // one fragment: nothing, at the end
	out = append(out, header('0', "sparse/hole", len(fragments))...)
	out = append(out, fragments...)
	return append(out, make([]byte, 1024)...)
}

func TestBombs(t *testing.T) {
	const limit = 8 << 20
	zip := func(window int) func([]byte) []byte {
		return func(b []byte) []byte {
			var buf bytes.Buffer
			w, err := zstd.NewWriter(&buf, zstd.WithWindowSize(window))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(b); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			return buf.Bytes()
		}
	}
	many := make([]testregistry.Entry, 0, 2000)
	for range cap(many) {
		many = append(many, testregistry.File("same", 0o644, nil))
	}
	files, err := testregistry.Tar(many...)
	if err != nil {
		t.Fatal(err)
	}
	trailing, err := testregistry.Tar(testregistry.File("f", 0o644, nil))
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		layers [][]byte
		zip    func([]byte) []byte
		words  string
	}{
		"one large file":      {layers: [][]byte{zeros(t, limit+1)}, words: "more than the 8388608 bytes"},
		"zstd":                {layers: [][]byte{zeros(t, 64<<20)}, zip: zip(1 << 20), words: "more than the 8388608 bytes"},
		"large together":      {layers: [][]byte{zeros(t, limit/2), zeros(t, limit/2+1)}, words: "more than the 8388608 bytes"},
		"sparse":              {layers: [][]byte{sparse(t, 1<<40)}, words: "more than the 8388608 bytes"},
		"after the end":       {layers: [][]byte{append(trailing, make([]byte, limit)...)}, words: "more than the 8388608 bytes"},
		"many files":          {layers: [][]byte{files}, words: "more than the 1000 files"},
		"zstd window":         {layers: [][]byte{zeros(t, 1<<20)}, zip: zip(512 << 20), words: "window"},
		"nothing but nothing": {layers: [][]byte{zeros(t, limit/2)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := testregistry.Start(t, testregistry.Options{})
			s := open(t, Options{MaxImageSize: limit, MaxImageFiles: 1000})
			var adds []mutate.Addendum
			for _, b := range tc.layers {
				layer, err := testregistry.LayerOf(b)
				if err != nil {
					t.Fatal(err)
				}
				add := mutate.Addendum{Layer: layer}
				if tc.zip != nil {
					add.Layer = compressed{Layer: layer, blob: tc.zip(b)}
				}
				adds = append(adds, add)
			}
			base, err := testregistry.Build("", nil)
			if err != nil {
				t.Fatal(err)
			}
			img, err := mutate.Append(base, adds...)
			if err != nil {
				t.Fatal(err)
			}
			ref, _ := reg.Push(t, "bomb:1", img)
			_, err = s.Pull(t.Context(), PullRequest{Ref: ref})
			if tc.words == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.words) {
				t.Fatalf("pull: %v, want an error with %q", err, tc.words)
			}
			if name != "zstd window" && !errors.Is(err, errdefs.ErrResourceExhausted) {
				t.Errorf("class of %v", err)
			}
			if err := s.Collect(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantFiles(t, filepath.Join(s.snapshotDir, "snapshots"))
		})
	}
}

// compressed is a layer whose blob was compressed by hand.
type compressed struct {
	v1.Layer
	blob []byte
}

func (c compressed) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(c.blob)), nil
}

func (c compressed) Digest() (v1.Hash, error) {
	h, _, err := v1.SHA256(bytes.NewReader(c.blob))
	return h, err
}

func (c compressed) Size() (int64, error) { return int64(len(c.blob)), nil }

func (c compressed) MediaType() (types.MediaType, error) { return types.OCILayerZStd, nil }

// TestManyFiles unpacks an image of many tiny files, on a tmpfs. EMBEDCRI_FILES sets how many; a million
// take a minute.
func TestManyFiles(t *testing.T) {
	testenv.Require(t, "root")
	n := 20_000
	if v := os.Getenv("EMBEDCRI_FILES"); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	var entries []testregistry.Entry
	for i := range n {
		if i%1000 == 0 {
			entries = append(entries, testregistry.Dir(fmt.Sprintf("d%d", i/1000), 0o755))
		}
		entries = append(entries, testregistry.File(fmt.Sprintf("d%d/f%d", i/1000, i), 0o644, []byte("x")))
	}
	layer, err := testregistry.Layer(entries...)
	if err != nil {
		t.Fatal(err)
	}
	img, err := testregistry.Build("", nil, layer)
	if err != nil {
		t.Fatal(err)
	}
	ref, _ := testregistry.Start(t, testregistry.Options{}).Push(t, "files:1", img)
	dir, err := os.MkdirTemp("/dev/shm", "embedcri-files-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := open(t, Options{Root: filepath.Join(dir, "images")})
	pull(t, s, ref)
	if u, err := s.Usage(t.Context()); err != nil || u.Images.Inodes < uint64(n) {
		t.Errorf("usage %+v, %v", u, err)
	}
}

// TestLyingManifests pulls images whose documents do not agree with what they describe.
func TestLyingManifests(t *testing.T) {
	layer, err := testregistry.Layer(testregistry.File("f", 0o644, []byte("f")))
	if err != nil {
		t.Fatal(err)
	}
	img, err := testregistry.Build("", nil, layer)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(f func(m *v1.Manifest)) func(t *testing.T) v1.Image {
		return func(t *testing.T) v1.Image {
			m, err := img.Manifest()
			if err != nil {
				t.Fatal(err)
			}
			m = m.DeepCopy()
			f(m)
			return edited{Image: img, manifest: m}
		}
	}
	other, err := testregistry.Layer(testregistry.File("g", 0o644, []byte("other")))
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		image func(t *testing.T) v1.Image
		words string
	}{
		"layer too short":  {edit(func(m *v1.Manifest) { m.Layers[0].Size += 10 }), "EOF"},
		"layer too long":   {edit(func(m *v1.Manifest) { m.Layers[0].Size -= 10 }), "size"},
		"layer of no size": {edit(func(m *v1.Manifest) { m.Layers[0].Size = 0 }), "size"},
		"layer below zero": {edit(func(m *v1.Manifest) { m.Layers[0].Size = -5 }), "size"},
		"immense layer":    {edit(func(m *v1.Manifest) { m.Layers[0].Size = 1 << 60 }), "more than"},
		"immense config":   {edit(func(m *v1.Manifest) { m.Config.Size = 1 << 30 }), "more than the 4194304"},
		"no config":        {edit(func(m *v1.Manifest) { m.Config.MediaType = "text/plain" }), "not of a container image"},
		"strange layer":    {edit(func(m *v1.Manifest) { m.Layers[0].MediaType = "text/plain" }), "not of a container image"},
		"too few layers":   {edit(func(m *v1.Manifest) { m.Layers = nil }), "layer"},
		"too many layers":  {edit(func(m *v1.Manifest) { m.Layers = append(m.Layers, m.Layers[0]) }), "describes 1 layers"},
		"encrypted":        {edit(func(m *v1.Manifest) { m.Layers[0].MediaType += "+encrypted" }), "encrypted"},
		"leads elsewhere":  {edit(func(m *v1.Manifest) { m.Layers[0].URLs = []string{"http://127.0.0.1:1/never"} }), ""},
		"bad digest":       {edit(func(m *v1.Manifest) { m.Layers[0].Digest.Hex = "zz" }), "digest"},
		"another layer":    {func(t *testing.T) v1.Image { return swapped(t, img, other) }, "diff id"},
		"very many layers": {edit(func(m *v1.Manifest) {
			for range 600 {
				m.Layers = append(m.Layers, m.Layers[0])
			}
		}), "601 layers"},
	} {
		t.Run(name, func(t *testing.T) {
			reg := testregistry.Start(t, testregistry.Options{})
			s := open(t, Options{})
			reg.Push(t, "liar:0", img) // its blobs
			lying := tc.image(t)
			if name == "another layer" {
				o, err := testregistry.Build("", nil, other)
				if err != nil {
					t.Fatal(err)
				}
				reg.Push(t, "liar:1", o)
			}
			ref := reg.PushManifest(t, "liar:2", lying)
			_, err := s.Pull(t.Context(), PullRequest{Ref: ref})
			if tc.words == "" && err != nil || tc.words != "" && (err == nil || !strings.Contains(err.Error(), tc.words)) {
				t.Errorf("pull: %v, want %q", err, tc.words)
			}
		})
	}
}

// edited is an image with another manifest than its own.
type edited struct {
	v1.Image
	manifest *v1.Manifest
}

func swapped(t *testing.T, img v1.Image, layer v1.Layer) v1.Image {
	t.Helper()
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	m = m.DeepCopy()
	if m.Layers[0].Digest, err = layer.Digest(); err != nil {
		t.Fatal(err)
	}
	if m.Layers[0].Size, err = layer.Size(); err != nil {
		t.Fatal(err)
	}
	return edited{Image: img, manifest: m}
}

func (e edited) RawManifest() ([]byte, error) { return json.Marshal(e.manifest) }
