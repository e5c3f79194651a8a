// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"compress/gzip"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/embedcri/embedcri/internal/testregistry"
)

func TestExportImport(t *testing.T) {
	reg := testregistry.Start(t, testregistry.Options{})
	s := open(t, Options{})
	refs := []string{reg.Ref(t, "busybox:1"), reg.Ref(t, "multiarch:1"), reg.Ref(t, "config:1")}
	for _, ref := range refs {
		pull(t, s, ref)
	}
	var archive bytes.Buffer
	if err := s.Export(t.Context(), &archive, refs...); err != nil {
		t.Fatal(err)
	}
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	if _, err := w.Write(archive.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}

	other := open(t, Options{})
	for _, stream := range []*bytes.Buffer{&archive, &zipped} { // twice is no more than once
		imported, err := other.Import(t.Context(), stream, ImportOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(imported) != 3 || len(other.Images()) != 3 {
			t.Fatalf("imported %d, store has %d", len(imported), len(other.Images()))
		}
		for i, ref := range refs {
			want, err := s.Image(ref)
			if err != nil {
				t.Fatal(err)
			}
			if imported[i].ID != want.ID || !slices.Equal(imported[i].RepoTags, want.RepoTags) || !slices.Equal(imported[i].RepoDigests, want.RepoDigests) {
				t.Errorf("imported %+v, want %+v", imported[i], want)
			}
		}
	}
	if left, err := other.unsynced(other.scoped(t.Context())); err != nil || len(left) > 0 {
		t.Errorf("import returned before the disk had it: %v, %v", left, err)
	}
	rootfs(t, other, "c1", refs[1])
}

func TestImportDockerArchive(t *testing.T) {
	layer, err := testregistry.Layer(testregistry.File("hello", 0o644, []byte("hello\n")))
	if err != nil {
		t.Fatal(err)
	}
	img, err := testregistry.Build("", &v1.Config{Cmd: []string{"/hello"}}, layer)
	if err != nil {
		t.Fatal(err)
	}
	tags := map[name.Tag]v1.Image{}
	for _, n := range []string{"one:1", "example.com/two:2"} {
		tag, err := name.NewTag(n)
		if err != nil {
			t.Fatal(err)
		}
		tags[tag] = img
	}
	var archive bytes.Buffer
	if err := tarball.MultiWrite(tags, &archive); err != nil {
		t.Fatal(err)
	}
	s := open(t, Options{})
	imported, err := s.Import(t.Context(), &archive, ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(imported) != 1 || !slices.Equal(imported[0].RepoTags, []string{"docker.io/library/one:1", "example.com/two:2"}) {
		t.Errorf("imported %+v", imported)
	}
}

func TestImportRefuses(t *testing.T) {
	s := open(t, Options{})
	for _, input := range []string{"", "no archive", strings.Repeat("\x00", 2048)} {
		if _, err := s.Import(t.Context(), strings.NewReader(input), ImportOptions{}); err == nil {
			t.Errorf("import of %q succeeded", input)
		}
	}
	if err := s.Export(t.Context(), &bytes.Buffer{}, "nothing:1"); !errdefs.IsNotFound(err) {
		t.Errorf("export of nothing: %v", err)
	}
	if err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantEmpty(t, s)
}

func TestExportDiscarded(t *testing.T) {
	reg := testregistry.Start(t, testregistry.Options{})
	s := open(t, Options{DiscardBlobs: true})
	ref := reg.Ref(t, "busybox:1")
	pull(t, s, ref)
	if err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Export(t.Context(), &bytes.Buffer{}, ref); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("export without blobs: %v", err)
	}
	rootfs(t, s, "c1", ref)
}

func TestArchivedName(t *testing.T) {
	for _, tc := range []struct{ containerd, oci, base, want string }{
		{"docker.io/library/a:1", "1", "b", "docker.io/library/a:1"},
		{"", "1", "b", "b:1"},
		{"", "1", "", ""},
		{"", "quay.io/c:2", "b", "quay.io/c:2"},
		{"", "", "b", ""},
	} {
		got := archivedName(map[string]string{"io.containerd.image.name": tc.containerd, "org.opencontainers.image.ref.name": tc.oci}, tc.base)
		if got != tc.want {
			t.Errorf("name of %+v: %q", tc, got)
		}
	}
}
