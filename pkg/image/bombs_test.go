// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/embedcri/embedcri/internal/testenv"
	"github.com/embedcri/embedcri/internal/testregistry"
)

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
