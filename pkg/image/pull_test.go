// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/embedcri/embedcri/internal/testregistry"
)

func TestPullNames(t *testing.T) {
	reg := testregistry.Start(t, testregistry.Options{})
	tag := reg.Ref(t, "multiarch:1")
	s := open(t, Options{})
	img := pull(t, s, tag)
	digest := img.RepoDigests[0]
	hash := strings.SplitN(digest, "@", 2)[1]
	for _, ref := range []string{digest, tag + "@" + hash} {
		if got := pull(t, s, ref); got.ID != img.ID {
			t.Errorf("pull %s: id %s, want %s", ref, got.ID, img.ID)
		}
	}
	for _, ref := range []string{tag, digest, tag + "@" + hash, img.ID, img.ID[7:], img.ID[7:19], "sha256:" + img.ID[7:12]} {
		if got, err := s.Image(ref); err != nil || got.ID != img.ID {
			t.Errorf("image %s: %v, %v", ref, got, err)
		}
	}
	for ref, class := range map[string]error{
		"": errdefs.ErrInvalidArgument, "UPPER": errdefs.ErrInvalidArgument, "a b": errdefs.ErrInvalidArgument,
		"nothing:1": errdefs.ErrNotFound, strings.Repeat("0", 64): errdefs.ErrNotFound, "sha256:0": errdefs.ErrNotFound,
	} {
		if _, err := s.Image(ref); !errors.Is(err, class) {
			t.Errorf("image %q: %v, want %v", ref, err, class)
		}
	}
	if len(s.Images()) != 1 {
		t.Errorf("%d images, want 1", len(s.Images()))
	}
	// Only by digest: no tag.
	if err := s.Remove(t.Context(), img.ID); err != nil {
		t.Fatal(err)
	}
	if got := pull(t, s, digest); len(got.RepoTags) != 0 || !slices.Equal(got.RepoDigests, []string{digest}) {
		t.Errorf("pulled by digest: tags %v, digests %v", got.RepoTags, got.RepoDigests)
	}
}

func TestPullMovedTag(t *testing.T) {
	reg := testregistry.Start(t, testregistry.Options{})
	s := open(t, Options{})
	build := func(content string) *v1.Image {
		layer, err := testregistry.Layer(testregistry.File("f", 0o644, []byte(content)))
		if err != nil {
			t.Fatal(err)
		}
		img, err := testregistry.Build("", nil, layer)
		if err != nil {
			t.Fatal(err)
		}
		return &img
	}
	ref, _ := reg.Push(t, "moving:1", *build("old"))
	old := pull(t, s, ref)
	reg.Push(t, "moving:1", *build("new"))
	moved := pull(t, s, ref)
	if moved.ID == old.ID || !slices.Equal(moved.RepoTags, []string{ref}) {
		t.Errorf("after the move: id %s (was %s), tags %v", moved.ID, old.ID, moved.RepoTags)
	}
	left, err := s.Image(old.ID)
	if err != nil || len(left.RepoTags) != 0 || !slices.Equal(left.RepoDigests, old.RepoDigests) {
		t.Errorf("the old image: %+v, %v", left, err)
	}
	if err := s.Remove(t.Context(), old.ID); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Image(ref); err != nil || got.ID != moved.ID {
		t.Errorf("removing the old image took the new one: %v", err)
	}
}

func TestPullOtherPlatform(t *testing.T) {
	reg := testregistry.Start(t, testregistry.Options{})
	s := open(t, Options{Platform: "linux/arm/v7"})
	img := pull(t, s, reg.Ref(t, "multiarch:1"))
	if img.Platform.Architecture != "arm" || img.Platform.Variant != "v7" {
		t.Errorf("platform %+v", img.Platform)
	}
	s = open(t, Options{Platform: "linux/riscv64"})
	_, err := s.Pull(t.Context(), PullRequest{Ref: reg.Ref(t, "multiarch:1")})
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "linux/riscv64") {
		t.Errorf("pull for a platform that the image has not: %v", err)
	}
}

func TestPullTogether(t *testing.T) {
	reg := testregistry.Start(t, testregistry.Options{})
	ref, other := reg.Ref(t, "config:1"), reg.Ref(t, "busybox:2") // they share a layer
	s := open(t, Options{})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			if _, err := s.Pull(t.Context(), PullRequest{Ref: []string{ref, other}[i%2]}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	config, busybox := reg.Count("GET /v2/config/blobs/"), reg.Count("GET /v2/busybox/blobs/")
	if config+busybox != 4+3-1 {
		t.Errorf("%d and %d blobs were downloaded, want 4 and 3 less the one that is in both", config, busybox)
	}
	if len(s.Pulls()) != 0 {
		t.Errorf("pulls after the end: %v", s.Pulls())
	}
	if c := s.Counters(); c.PullsSucceeded < 2 || c.PullsFailed != 0 || c.BytesDownloaded == 0 || c.BytesUnpacked == 0 {
		t.Errorf("counters %+v", c)
	}
}

// gate holds blobs back until it is opened, and tells when the first was asked for.
type gate struct {
	asked, open chan struct{}
	once        sync.Once
}

func newGate() *gate { return &gate{asked: make(chan struct{}), open: make(chan struct{})} }

func (g *gate) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isBlob(r) {
			g.once.Do(func() { close(g.asked) })
			select {
			case <-g.open:
			case <-r.Context().Done():
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

func TestPullCancelled(t *testing.T) {
	g := newGate()
	reg := testregistry.Start(t, testregistry.Options{Wrap: g.wrap})
	ref := reg.Ref(t, "busybox:2")
	s := open(t, Options{})
	results := make(chan error, 2)
	one, cancelOne := context.WithCancel(t.Context())
	two, cancelTwo := context.WithCancel(t.Context())
	for _, ctx := range []context.Context{one, two} {
		go func() {
			_, err := s.Pull(ctx, PullRequest{Ref: ref})
			results <- err
		}()
	}
	<-g.asked
	cancelOne()
	if err := <-results; !errors.Is(err, context.Canceled) {
		t.Errorf("the one that gave up: %v", err)
	}
	if n := len(s.Pulls()); n != 1 {
		t.Errorf("%d pulls are running for the one that still waits", n)
	}
	cancelTwo()
	if err := <-results; !errors.Is(err, context.Canceled) {
		t.Errorf("the last one: %v", err)
	}
	s.pulls.wait()
	if err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantEmpty(t, s)
	close(g.open)
	pull(t, s, ref)
}

func TestPullResumes(t *testing.T) {
	var cut atomic.Int64
	var ranges atomic.Int64
	cut.Store(1)
	reg := testregistry.Start(t, testregistry.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") != "" {
				ranges.Add(1)
			}
			switch {
			case !isBlob(r) || cut.Load() == 0:
				next.ServeHTTP(w, r)
			case r.Header.Get("Range") != "":
				http.Error(w, "gone home", http.StatusInternalServerError)
			default:
				truncates(next).ServeHTTP(w, r)
			}
		})
	}})
	ref := reg.Ref(t, "busybox:1")
	s := open(t, Options{})
	if _, err := s.Pull(t.Context(), PullRequest{Ref: ref}); !errdefs.IsUnavailable(err) {
		t.Fatalf("first pull: %v", err)
	}
	// A restart in between changes nothing.
	closeStore(t, s)
	s = open(t, s.options)
	if err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	cut.Store(0)
	ranges.Store(0)
	before := s.Counters().BytesDownloaded
	img := pull(t, s, ref)
	if ranges.Load() == 0 {
		t.Error("the second pull did not go on where the first had stopped")
	}
	if got := s.Counters().BytesDownloaded - before; got > img.Size*3/4 {
		t.Errorf("the second pull downloaded %d bytes", got)
	}
	if err := s.Remove(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantEmpty(t, s)
}

func TestPullProgress(t *testing.T) {
	g := newGate()
	reg := testregistry.Start(t, testregistry.Options{Wrap: g.wrap})
	s := open(t, Options{})
	var seen []Progress
	var once sync.Once
	_, err := s.Pull(t.Context(), PullRequest{Ref: reg.Ref(t, "config:1"), Progress: func(p Progress) {
		seen = append(seen, p)
		once.Do(func() { close(g.open) })
	}})
	if err != nil {
		t.Fatal(err)
	}
	last := seen[len(seen)-1]
	if last.Stage != StageDone || seen[0].Stage != StageDownloading && seen[0].Stage != StageResolving {
		t.Errorf("stages from %s to %s", seen[0].Stage, last.Stage)
	}
}

// TestPullLeavesNothingRunning counts goroutines and files before and after pulls that end in each way.
func TestPullLeavesNothingRunning(t *testing.T) {
	good := testregistry.Start(t, testregistry.Options{})
	bad := testregistry.Start(t, testregistry.Options{Wrap: stalls})
	s := open(t, Options{ProgressTimeout: patience})
	img, err := testregistry.Random(3, 2, 64<<10)
	if err != nil {
		t.Fatal(err)
	}
	goodRef := good.Ref(t, "busybox:2")
	badRef, _ := bad.Push(t, "random:1", img)
	if _, err := s.Pull(t.Context(), PullRequest{Ref: badRef}); err == nil { // warms up what stays
		t.Fatal("pull from a registry that stalls succeeded")
	}
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	for range 3 {
		pull(t, s, goodRef)
		if _, err := s.Pull(t.Context(), PullRequest{Ref: badRef}); err == nil {
			t.Fatal("pull from a registry that stalls succeeded")
		}
		if err := s.Remove(t.Context(), goodRef); err != nil {
			t.Fatal(err)
		}
		if err := s.Collect(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > goroutines+2 || openFiles(t) > files+2 {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines and %d files, were %d and %d", runtime.NumGoroutine(), openFiles(t), goroutines, files)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
