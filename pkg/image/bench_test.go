// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/embedcri/embedcri/internal/testregistry"
)

// benchImage serves an image of EMBEDCRI_BENCH_MB megabytes (default 60) in 8 layers, and makes a
// directory to unpack it in, on a tmpfs: what it costs ext4 to make a file differs tenfold between one
// directory and the next, which hides everything else.
func benchImage(b *testing.B) (ref, dir string) {
	b.Helper()
	size := 60
	if v := os.Getenv("EMBEDCRI_BENCH_MB"); v != "" {
		var err error
		if size, err = strconv.Atoi(v); err != nil {
			b.Fatal(err)
		}
	}
	img, err := testregistry.Random(1, 8, size<<20/8)
	if err != nil {
		b.Fatal(err)
	}
	ref, _ = testregistry.Start(b, testregistry.Options{}).Push(b, "big:1", img)
	if dir, err = os.MkdirTemp(os.Getenv("EMBEDCRI_BENCH_DIR"), "embedcri-bench-"); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			b.Error(err)
		}
	})
	b.SetBytes(int64(size) << 20)
	return ref, dir
}

// BenchmarkPull downloads and unpacks an image.
func BenchmarkPull(b *testing.B) {
	ref, dir := benchImage(b)
	s := open(b, Options{Root: filepath.Join(dir, "images")})
	for b.Loop() {
		pull(b, s, ref)
		b.StopTimer()
		if err := errors.Join(s.Remove(b.Context(), ref), s.Collect(b.Context())); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkPullContainerd does the same with containerd and ctr, if EMBEDCRI_BENCH_CONTAINERD names the
// directory that they are in (go install github.com/containerd/containerd/v2/cmd/...).
func BenchmarkPullContainerd(b *testing.B) {
	bin := os.Getenv("EMBEDCRI_BENCH_CONTAINERD")
	if bin == "" {
		b.Skip("EMBEDCRI_BENCH_CONTAINERD is not set")
	}
	ref, dir := benchImage(b)
	config, socket := filepath.Join(dir, "config.toml"), filepath.Join(dir, "containerd.sock")
	const noCRI = `version = 3
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"]
`
	if err := os.WriteFile(config, []byte(noCRI), 0o600); err != nil {
		b.Fatal(err)
	}
	daemon := exec.Command(filepath.Join(bin, "containerd"), "-c", config, "-a", socket,
		"--root", filepath.Join(dir, "root"), "--state", filepath.Join(dir, "state"))
	if err := daemon.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		_ = daemon.Process.Kill()
		_ = daemon.Wait()
	}()
	ctr := func(args ...string) error {
		out, err := exec.Command(filepath.Join(bin, "ctr"), append([]string{"-a", socket}, args...)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ctr %v: %w: %s", args, err, out)
		}
		return nil
	}
	for deadline := time.Now().Add(20 * time.Second); ctr("version") != nil; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatal("containerd does not answer")
		}
	}
	for b.Loop() {
		if err := ctr("images", "pull", "--plain-http", ref); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := ctr("images", "rm", "--sync", ref); err != nil {
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
