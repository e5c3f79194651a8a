// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/json"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/embedcri/embedcri/internal/testregistry"
)

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
