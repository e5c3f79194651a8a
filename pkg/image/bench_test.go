// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/embedcri/embedcri/internal/testregistry"
)

// BenchmarkPull pulls and unpacks an image of EMBEDCRI_BENCH_MB megabytes (default 60) in 6 layers from a
// registry in this process. test/bench compares the daemon with containerd.
func BenchmarkPull(b *testing.B) {
	size := 60
	if v := os.Getenv("EMBEDCRI_BENCH_MB"); v != "" {
		var err error
		if size, err = strconv.Atoi(v); err != nil {
			b.Fatal(err)
		}
	}
	reg := testregistry.Start(b, testregistry.Options{})
	img, err := testregistry.Random(1, 6, size<<20/6)
	if err != nil {
		b.Fatal(err)
	}
	ref, _ := reg.Push(b, "big:1", img)
	b.SetBytes(int64(size) << 20)
	for b.Loop() {
		b.StopTimer()
		s := open(b, Options{})
		b.StartTimer()
		pull(b, s, ref)
		b.StopTimer()
		closeStore(b, s)
		if err := os.RemoveAll(s.options.Root); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkRootfs makes and removes a container's root file system.
func BenchmarkRootfs(b *testing.B) {
	reg := testregistry.Start(b, testregistry.Options{})
	s := open(b, Options{Volatile: true})
	img := pull(b, s, reg.Ref(b, "busybox:1"))
	dir := b.TempDir()
	n := 0
	for b.Loop() {
		n++
		id := fmt.Sprintf("c%d", n)
		target := filepath.Join(dir, id)
		if err := s.CreateRootfs(b.Context(), RootfsRequest{ContainerID: id, ImageID: img.ID, Target: target}); err != nil {
			b.Fatal(err)
		}
		if err := s.RemoveRootfs(b.Context(), id, target); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkImages lists images while the store is idle: it must not touch the disk.
func BenchmarkImages(b *testing.B) {
	reg := testregistry.Start(b, testregistry.Options{})
	s := open(b, Options{})
	ref := reg.Ref(b, "scratch:1")
	pull(b, s, ref)
	for b.Loop() {
		if _, err := s.Image(ref); err != nil || len(s.Images()) != 1 {
			b.Fatal(err)
		}
	}
}
