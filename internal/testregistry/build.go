// SPDX-License-Identifier: Apache-2.0

package testregistry

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// epoch is the time stamp of everything built here, so that digests are the same in every run.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Entry is one tar entry of a layer.
type Entry struct {
	tar.Header
	// Body is the content of a regular file.
	Body []byte
	// LyingSize, when not zero, is written as the entry's size instead of len(Body).
	LyingSize int64
}

// Dir is a directory entry of root.
func Dir(name string, mode int64) Entry {
	return Entry{Header: tar.Header{Name: strings.TrimSuffix(name, "/") + "/", Typeflag: tar.TypeDir, Mode: mode}}
}

// File is a regular file of root.
func File(name string, mode int64, body []byte) Entry {
	return Entry{Header: tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode}, Body: body}
}

// Symlink is a symbolic link of root.
func Symlink(name, target string) Entry {
	return Entry{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}}
}

// Hardlink is a hard link to target, a name in the same root.
func Hardlink(name, target string) Entry {
	return Entry{Header: tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target, Mode: 0o644}}
}

// Whiteout removes name of the layers below.
func Whiteout(name string) Entry {
	dir, base := "", name
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		dir, base = name[:i+1], name[i+1:]
	}
	return File(dir+".wh."+base, 0o644, nil)
}

// Opaque hides what the layers below have in dir.
func Opaque(dir string) Entry { return File(strings.TrimSuffix(dir, "/")+"/.wh..wh..opq", 0o644, nil) }

// Tar writes entries as an uncompressed tar.
func Tar(entries ...Entry) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := e.Header
		h.ModTime = epoch
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(e.Body))
			if e.LyingSize != 0 {
				h.Size = e.LyingSize
			}
		}
		if err := w.WriteHeader(&h); err != nil {
			return nil, fmt.Errorf("tar entry %s: %w", h.Name, err)
		}
		if _, err := w.Write(e.Body); err != nil {
			return nil, fmt.Errorf("tar entry %s: %w", h.Name, err)
		}
		if e.LyingSize != 0 {
			return buf.Bytes(), nil // the writer would refuse to go on: the stream ends short, on purpose
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// Layer makes a gzip layer of entries.
func Layer(entries ...Entry) (v1.Layer, error) {
	b, err := Tar(entries...)
	if err != nil {
		return nil, err
	}
	return LayerOf(b)
}

// LayerOf makes a gzip layer of an uncompressed tar, or of anything that pretends to be one.
func LayerOf(b []byte, opts ...tarball.LayerOption) (v1.Layer, error) {
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b)), nil
	}, append([]tarball.LayerOption{tarball.WithCompressedCaching, tarball.WithMediaType(types.OCILayer)}, opts...)...)
}

// Build makes an OCI image for linux on arch ("" is amd64) of layers. A nil config is fine.
func Build(arch string, config *v1.Config, layers ...v1.Layer) (v1.Image, error) {
	if arch == "" {
		arch = "amd64"
	}
	arch, variant, _ := strings.Cut(arch, "/")
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.AppendLayers(img, layers...)
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Variant = "linux", arch, variant
	file.Created = v1.Time{Time: epoch}
	if config != nil {
		file.Config = *config
	}
	return mutate.ConfigFile(img, file)
}

// Index makes a multi-architecture index of images, keyed by "arch" or "arch/variant".
func Index(images map[string]v1.Image) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range sortedKeys(images) {
		name, variant, _ := strings.Cut(arch, "/")
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        images[arch],
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: name, Variant: variant}},
		})
	}
	return index, nil
}

// Random makes an image of count layers of size bytes each, whose files hardly compress: one third of
// large files, one third of small ones, one third text-like. The same seed gives the same image.
func Random(seed uint64, count, size int) (v1.Image, error) {
	layers := make([]v1.Layer, 0, count)
	for i := range count {
		entries := randomEntries(rand.New(rand.NewPCG(seed, uint64(i))), fmt.Sprintf("layer%d", i), size)
		layer, err := Layer(entries...)
		if err != nil {
			return nil, err
		}
		layers = append(layers, layer)
	}
	return Build("", &v1.Config{Cmd: []string{"/bin/true"}}, layers...)
}

func randomEntries(r *rand.Rand, dir string, size int) []Entry {
	entries := []Entry{Dir(dir, 0o755)}
	add := func(n int, text bool) {
		body := make([]byte, n)
		var word [8]byte
		for i := range body {
			if i%8 == 0 {
				binary.LittleEndian.PutUint64(word[:], r.Uint64())
			}
			body[i] = word[i%8]
			if text {
				body[i] = "abcdefghijklmnopqrstuvwxyz     \n"[body[i]%32]
			}
		}
		entries = append(entries, File(fmt.Sprintf("%s/file%d", dir, len(entries)), 0o644, body))
	}
	add(size/3, false)
	add(size/3, true)
	for rest := size / 3; rest > 0; rest -= 8 << 10 {
		add(min(rest, 8<<10), rest%2 == 0)
	}
	return entries
}

// WithConfig replaces the configuration of an image by any bytes, which need not be JSON.
func WithConfig(img v1.Image, config []byte) (v1.Image, error) {
	m, err := img.Manifest()
	if err != nil {
		return nil, err
	}
	m = m.DeepCopy()
	if m.Config.Digest, m.Config.Size, err = v1.SHA256(bytes.NewReader(config)); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(m)
	return withConfig{img, m, raw, config}, err
}

// withConfig is an image with another configuration.
type withConfig struct {
	v1.Image
	manifest    *v1.Manifest
	rawManifest []byte
	config      []byte
}

func (i withConfig) RawConfigFile() ([]byte, error) { return i.config, nil }
func (i withConfig) ConfigFile() (*v1.ConfigFile, error) {
	return v1.ParseConfigFile(bytes.NewReader(i.config))
}
func (i withConfig) ConfigName() (v1.Hash, error)    { return i.manifest.Config.Digest, nil }
func (i withConfig) Manifest() (*v1.Manifest, error) { return i.manifest, nil }
func (i withConfig) RawManifest() ([]byte, error)    { return i.rawManifest, nil }
func (i withConfig) Digest() (v1.Hash, error)        { return partial.Digest(i) }
func (i withConfig) Size() (int64, error)            { return int64(len(i.rawManifest)), nil }
