// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/embedcri/embedcri/internal/testenv"
	"github.com/embedcri/embedcri/internal/testregistry"
)

// crashEnv carries a crashJob to the test binary that is run to be killed.
const crashEnv = "EMBEDCRI_IMAGE_CRASH"

type crashJob struct {
	Root, Mounts string
	Refs         []string
}

func TestMain(m *testing.M) {
	if job := os.Getenv(crashEnv); job != "" {
		if err := runCrashJob(job); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// runCrashJob pulls images, makes containers' root file systems, and removes it all, over and over.
// Nothing but being killed ends it.
func runCrashJob(encoded string) error {
	var job crashJob
	if err := json.Unmarshal([]byte(encoded), &job); err != nil {
		return err
	}
	s, err := Open(Options{Root: job.Root, CertDirs: []string{}})
	if err != nil {
		return err
	}
	ctx := context.Background()
	for round := 0; ; round++ {
		var wg sync.WaitGroup
		errs := make(chan error, len(job.Refs))
		for _, ref := range job.Refs {
			wg.Go(func() {
				img, err := s.Pull(ctx, PullRequest{Ref: ref})
				if err != nil {
					errs <- err
					return
				}
				id := fmt.Sprintf("c%d-%s", rand.Uint32(), img.ID[7:15])
				target := filepath.Join(job.Mounts, id)
				err = errors.Join(
					s.CreateRootfs(ctx, RootfsRequest{ContainerID: id, ImageID: img.ID, Target: target}),
					os.WriteFile(filepath.Join(target, "written"), []byte(id), 0o600),
					s.RemoveRootfs(ctx, id, target))
				if rand.N(2) == 0 { // the others are there at the next kill
					err = errors.Join(err, s.Remove(ctx, ref))
				}
				errs <- err
			})
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			if err != nil {
				return fmt.Errorf("round %d: %w", round, err)
			}
		}
	}
}

// TestCrash kills a process in the middle of pulls, unpacks and mounts, and looks at what the next Open
// makes of it. EMBEDCRI_KILLS sets how often; 200 is what the project promises.
func TestCrash(t *testing.T) {
	testenv.Require(t, "root")
	kills := 20
	if v := os.Getenv("EMBEDCRI_KILLS"); v != "" {
		var err error
		if kills, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	} else if testing.Short() {
		kills = 4
	}
	reg := testregistry.Start(t, testregistry.Options{})
	job := crashJob{Root: filepath.Join(t.TempDir(), "images"), Mounts: t.TempDir()}
	for i := range 4 {
		ref, _ := reg.Push(t, fmt.Sprintf("random%d:1", i), runnable(t, uint64(i)))
		job.Refs = append(job.Refs, ref)
	}
	job.Refs = append(job.Refs, reg.Ref(t, "config:1"))
	began := time.Now()
	want := referenceTrees(t, job.Refs)
	// About what the processes to be killed need for a round on this machine; what one has got, the next goes on from.
	window := min(2*time.Since(began), 1500*time.Millisecond)
	encoded, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmountAll(t, job.Mounts) })

	listed := 0
	for range kills {
		child := exec.Command("/proc/self/exe")
		child.Env = append(os.Environ(), crashEnv+"="+string(encoded))
		child.Stderr = os.Stderr
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20*time.Millisecond + rand.N(window)) // when it is killed is the point, not a wait
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := child.Wait(); child.ProcessState.ExitCode() != -1 {
			t.Fatalf("the killed process had ended by itself: %v", err)
		}
		listed += checkAfterCrash(t, job, want)
	}
	t.Logf("%d kills within %v, %d images were listed after them", kills, window, listed)
	if kills >= 20 && listed == 0 {
		t.Error("no kill came after a pull: nothing was checked")
	}

	s := open(t, Options{Root: job.Root})
	for _, ref := range job.Refs {
		if err := s.Remove(t.Context(), pull(t, s, ref).ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantEmpty(t, s)
}

// runnable is an image of three random layers, and one with a shell.
func runnable(t *testing.T, seed uint64) v1.Image {
	t.Helper()
	random, err := testregistry.Random(seed, 3, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := random.Layers()
	if err != nil {
		t.Fatal(err)
	}
	shell, err := testregistry.BusyboxLayer()
	if err != nil {
		t.Fatal(err)
	}
	img, err := testregistry.Build("", &v1.Config{Cmd: []string{"sh"}}, append(layers, shell)...)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// runs starts a program in a root file system of the image.
func runs(t *testing.T, s *Store, id, target string) {
	t.Helper()
	const container = "runs"
	req := RootfsRequest{ContainerID: container, ImageID: id, Target: target}
	if err := s.CreateRootfs(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", "echo written >/new && cat /new")
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: target}
	cmd.Dir = "/"
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "written\n" {
		t.Errorf("image %s is listed and does not run: %q, %v", id, out, err)
	}
	if err := s.RemoveRootfs(t.Context(), container, target); err != nil {
		t.Fatal(err)
	}
}

// checkAfterCrash opens the store, cleans up as the daemon's reconciler does, and checks every image
// that is listed. It returns their number.
func checkAfterCrash(t *testing.T, job crashJob, want map[string]string) int {
	t.Helper()
	s := open(t, Options{Root: job.Root})
	defer closeStore(t, s)
	ids, err := s.Rootfses(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadDir(job.Mounts)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		ids = append(ids, m.Name())
	}
	for _, id := range ids {
		if err := s.RemoveRootfs(t.Context(), id, filepath.Join(job.Mounts, id)); err != nil {
			t.Fatal(err)
		}
	}
	wantFiles(t, job.Mounts)
	if err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx := s.scoped(t.Context())
	if err := s.snapshots.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Kind != snapshots.KindCommitted {
			t.Errorf("snapshot %s is left over", info.Name)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.content.Walk(ctx, func(info content.Info) error { return verifyBlob(ctx, s, info) }); err != nil {
		t.Error(err)
	}
	for _, img := range s.Images() {
		if got := imageTree(t, s, img.ID); got != want[img.ID] {
			t.Errorf("image %s is listed and has other files than it should", img.Name())
		}
		runs(t, s, img.ID, filepath.Join(job.Mounts, "runs"))
	}
	return len(s.Images())
}

func verifyBlob(ctx context.Context, s *Store, info content.Info) error {
	blob, err := os.Open(filepath.Join(s.options.Root, "content/blobs/sha256", info.Digest.Encoded()))
	if err != nil {
		return err
	}
	defer blob.Close()
	v := info.Digest.Verifier()
	if _, err := io.Copy(v, blob); err != nil {
		return err
	}
	if !v.Verified() {
		return fmt.Errorf("blob %s has other bytes", info.Digest)
	}
	return ctx.Err()
}

// referenceTrees pulls the images into a store that nobody kills, and returns imageTree by id.
func referenceTrees(t *testing.T, refs []string) map[string]string {
	t.Helper()
	s := open(t, Options{})
	trees := map[string]string{}
	for _, ref := range refs {
		img := pull(t, s, ref)
		trees[img.ID] = imageTree(t, s, img.ID)
	}
	closeStore(t, s)
	return trees
}

// imageTree mounts an image and sums up all names, modes and contents.
func imageTree(t *testing.T, s *Store, id string) string {
	t.Helper()
	target := filepath.Join(t.TempDir(), "image")
	if err := s.MountImage(t.Context(), VolumeRequest{ImageID: id, Target: target}); err != nil {
		t.Fatal(err)
	}
	sum := sha256.New()
	err := filepath.WalkDir(target, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(sum, "%s %v\n", path[len(target):], info.Mode())
		if !info.Mode().IsRegular() {
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(sum, f)
		return err
	})
	if err := errors.Join(err, s.UnmountImage(t.Context(), target)); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sum.Sum(nil))
}

func unmountAll(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Error(err)
	}
	for _, e := range entries {
		if err := unmount(filepath.Join(dir, e.Name())); err != nil {
			t.Error(err)
		}
	}
}

// TestFirstStartCutOff opens a store whose first start ended between making its directories and its database's first record.
func TestFirstStartCutOff(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "snapshots", "1"), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the first makes an empty database, as that start may have
		if err := sweepOrphans(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "snapshots", "1")); !os.IsNotExist(err) {
		t.Errorf("a directory that no record names is still there: %v", err)
	}
}
