// SPDX-License-Identifier: Apache-2.0

package image

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/embedcri/embedcri/internal/testenv"
	"github.com/embedcri/embedcri/internal/testregistry"
)

// open opens a store in a directory of its own, or in o.Root, until the test ends.
func open(t testing.TB, o Options) *Store {
	t.Helper()
	testenv.Require(t, "root")
	if o.Root == "" {
		o.Root = filepath.Join(t.TempDir(), "images")
	}
	if o.CertDirs == nil {
		o.CertDirs = []string{filepath.Join(t.TempDir(), "certs.d")}
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

// closeStore closes s unless the test has done so.
func closeStore(t testing.TB, s *Store) {
	t.Helper()
	if s.ctx.Err() != nil {
		return
	}
	if err := s.Close(); err != nil {
		t.Errorf("close the store: %v", err)
	}
}

func pull(t testing.TB, s *Store, ref string) *Image {
	t.Helper()
	img, err := s.Pull(t.Context(), PullRequest{Ref: ref})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// rootfs makes a container's root file system until the test ends.
func rootfs(t testing.TB, s *Store, id, image string) string {
	t.Helper()
	target := filepath.Join(t.TempDir(), "rootfs")
	if err := s.CreateRootfs(t.Context(), RootfsRequest{ContainerID: id, ImageID: image, Target: target}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unmount(target); err != nil {
			t.Error(err)
		}
	})
	return target
}

func TestPullRunRemove(t *testing.T) {
	reg := testregistry.Start(t, testregistry.Options{})
	s := open(t, Options{})
	ref := reg.Ref(t, "config:1")
	img := pull(t, s, ref)
	if !slices.Equal(img.RepoTags, []string{ref}) || len(img.RepoDigests) != 1 || !strings.HasPrefix(img.RepoDigests[0], reg.Addr+"/config@sha256:") {
		t.Errorf("tags %v, digests %v", img.RepoTags, img.RepoDigests)
	}
	if img.Config.User != "app" || img.Config.StopSignal != "SIGUSR1" || img.Config.WorkingDir != "/work/dir" || img.Size < 1<<20 {
		t.Errorf("configuration %+v, size %d", img.Config, img.Size)
	}

	dir := rootfs(t, s, "c1", img.ID)
	if got, err := os.Readlink(filepath.Join(dir, "bin/sh")); err != nil || got != "busybox" {
		t.Errorf("bin/sh links to %q, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "removed")); !os.IsNotExist(err) {
		t.Errorf("whiteout: %v", err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "opaque/*"))
	if err != nil || !slices.Equal(names, []string{filepath.Join(dir, "opaque/new")}) {
		t.Errorf("opaque directory has %v, %v", names, err)
	}
	if fi, err := os.Stat(filepath.Join(dir, "tmp")); err != nil || fi.Mode() != os.ModeDir|os.ModeSticky|0o777 {
		t.Errorf("tmp: %v, %v", fi.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(dir, "new"), []byte("x"), 0o644); err != nil {
		t.Error(err)
	}

	// The image can go while the container has its files.
	if err := s.Remove(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Image(ref); !errdefs.IsNotFound(err) {
		t.Errorf("image after removal: %v", err)
	}
	if err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "bin/busybox")); err != nil {
		t.Errorf("collection took a running container's files: %v", err)
	}
	for range 2 { // idempotent
		if err := s.RemoveRootfs(t.Context(), "c1", dir); err != nil {
			t.Fatal(err)
		}
		if err := s.Remove(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantEmpty(t, s)
}

// wantEmpty checks that no blob, snapshot, ingest or lease is left, neither in the database nor on disk.
func wantEmpty(t testing.TB, s *Store) {
	t.Helper()
	wantFiles(t, filepath.Join(s.snapshotDir, "snapshots"))
	wantFiles(t, filepath.Join(s.options.Root, "content/blobs/sha256"))
	wantFiles(t, filepath.Join(s.options.Root, "content/ingest"))
	all, err := s.leases.List(s.scoped(t.Context()))
	if err != nil || len(all) > 0 {
		t.Errorf("leases left: %v, %v", all, err)
	}
}

func wantFiles(t testing.TB, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Error(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s has %v, want %v", dir, got, want)
	}
}

func TestReopen(t *testing.T) {
	reg := testregistry.Start(t, testregistry.Options{})
	s := open(t, Options{})
	first, second := pull(t, s, reg.Ref(t, "busybox:1")), pull(t, s, reg.Ref(t, "scratch:1"))
	dir := rootfs(t, s, "c1", first.ID)
	if _, err := Open(s.options); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "another process") {
		t.Errorf("second opener: %v", err)
	}
	closeStore(t, s)

	again := open(t, s.options)
	if got := again.Images(); len(got) != 2 || got[0].ID != first.ID || got[1].ID != second.ID {
		t.Errorf("images after reopening: %v", got)
	}
	if ids, err := again.Rootfses(t.Context()); err != nil || !slices.Equal(ids, []string{"c1"}) {
		t.Errorf("root file systems: %v, %v", ids, err)
	}
	if err := unmount(dir); err != nil {
		t.Fatal(err)
	}
	if err := again.MountRootfs(t.Context(), "c1", dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "bin/busybox")); err != nil {
		t.Error(err)
	}
	u, err := again.Usage(t.Context())
	if err != nil || u.Images.Bytes < 1<<20 || u.Images.Inodes < 100 || u.Containers.Inodes == 0 || time.Since(u.Containers.At) > time.Minute {
		t.Errorf("usage %+v, %v", u, err)
	}
}
