// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestRecords(t *testing.T) {
	d := digest.FromString("x")
	for ref, want := range map[string][]string{
		"busybox":                        {"docker.io/library/busybox@" + d.String(), "docker.io/library/busybox:latest"},
		"a.io/b/c:1":                     {"a.io/b/c@" + d.String(), "a.io/b/c:1"},
		"a.io/b/c:1@" + d.String():       {"a.io/b/c@" + d.String()},
		"localhost:5000/c@" + d.String(): {"localhost:5000/c@" + d.String()},
	} {
		named, err := parseReference(ref)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := records(named, d); err != nil || !slices.Equal(got, want) {
			t.Errorf("records of %s: %v, %v", ref, got, err)
		}
	}
}

func TestMatchPattern(t *testing.T) {
	for _, tc := range []struct {
		pattern, name string
		want          bool
	}{
		{"registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10", true},
		{"registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.1", false},
		{"registry.k8s.io/pause*", "registry.k8s.io/pause:3.1", true},
		{"*pause*", "registry.k8s.io/pause:3.1", true},
		{"*pause*", "registry.k8s.io/paus:3.1", false},
		{"busybox", "docker.io/library/busybox:latest", true},
		{"busybox:1", "docker.io/library/busybox:latest", false},
		{"*", "anything", true},
		{"", "anything", false},
	} {
		if got := matchPattern(tc.pattern, tc.name); got != tc.want {
			t.Errorf("pattern %q matches %q: %v", tc.pattern, tc.name, got)
		}
	}
}

func TestServerHost(t *testing.T) {
	for address, want := range map[string]string{
		"": "", "quay.io": "quay.io", "https://quay.io/v2/": "quay.io", "127.0.0.1:5000": "127.0.0.1:5000",
		"https://index.docker.io/v1/": "docker.io", "registry-1.docker.io": "docker.io", "http://h:1/x": "h:1",
	} {
		if got := serverHost(address); got != want {
			t.Errorf("host of %q: %q", address, got)
		}
	}
}

func TestLogin(t *testing.T) {
	c, err := parseAuth(&runtimeapi.AuthConfig{Username: "u", Password: "p", ServerAddress: "https://index.docker.io/v1/"})
	if err != nil {
		t.Fatal(err)
	}
	login := c.login([]string{"registry-1.docker.io", "mirror.example"})
	for host, want := range map[string]string{"registry-1.docker.io": "u", "mirror.example": "", "evil.example": ""} {
		if user, _, err := login(host); err != nil || user != want {
			t.Errorf("login for %s: %q, %v", host, user, err)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 23, 19, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"7": 7 * time.Second, "0": 0, "-3": 0,
		"Mon, 23 Nov 2026 19:00:20 GMT": 20 * time.Second, "Mon, 23 Nov 2026 18:00:00 GMT": 0,
	} {
		if got, ok := retryAfter(value, now); !ok || got != want {
			t.Errorf("%q: %v, %v", value, got, ok)
		}
	}
	for _, value := range []string{"", "soon", "1.5"} {
		if _, ok := retryAfter(value, now); ok {
			t.Errorf("%q was understood", value)
		}
	}
}

func TestClassOf(t *testing.T) {
	for code, want := range map[int]error{
		http.StatusUnauthorized: errdefs.ErrUnauthenticated, http.StatusForbidden: errdefs.ErrPermissionDenied,
		http.StatusNotFound: errdefs.ErrNotFound, http.StatusTooManyRequests: errdefs.ErrResourceExhausted,
		http.StatusBadGateway: errdefs.ErrUnavailable, http.StatusTeapot: errdefs.ErrUnknown,
	} {
		if got := classOf(remoteerrors.ErrUnexpectedStatus{StatusCode: code}); got != want {
			t.Errorf("class of status %d: %v", code, got)
		}
	}
	if got := classOf(&net.OpError{Op: "dial", Err: errors.New("refused")}); got != errdefs.ErrUnavailable {
		t.Errorf("class of a dial error: %v", got)
	}
	var f failures
	f.add("mirror", errdefs.ErrNotFound)
	f.add("registry", io.ErrUnexpectedEOF)
	if err := f.error(); !errdefs.IsUnavailable(err) || errdefs.IsNotFound(err) || err.Error() != "from mirror: not found; from registry: unexpected EOF" {
		t.Errorf("the last server decides: %v", err)
	}
}

func TestOptions(t *testing.T) {
	for name, o := range map[string]Options{
		"no root": {}, "relative root": {Root: "a/b"}, "comma in root": {Root: "/a,b"}, "colon in root": {Root: "/a:b"},
		"snapshotter": {Root: "/a", Snapshotter: "zfs"}, "downloads": {Root: "/a", MaxDownloads: -1}, "timeout": {Root: "/a", ProgressTimeout: -1},
	} {
		if s, err := Open(o); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
}

func TestFlights(t *testing.T) {
	var f flights[string, int]
	started, release := make(chan struct{}), make(chan struct{})
	op := func(ctx context.Context) (int, error) {
		started <- struct{}{}
		select {
		case <-release:
			return 42, nil
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
	join := func() *flight[int] {
		t.Helper()
		fl, err := f.join(t.Context(), t.Context(), "k", op)
		if err != nil {
			t.Fatal(err)
		}
		return fl
	}
	one := join()
	<-started
	if two := join(); two != one {
		t.Fatal("two flights of one key")
	}
	f.leave(one)
	release <- struct{}{}
	<-one.done
	if one.value != 42 || one.err != nil {
		t.Errorf("flight: %d, %v", one.value, one.err)
	}
	f.leave(one)

	// Abandoned; the next one does not land in it.
	gone := join()
	<-started
	f.leave(gone)
	next := join()
	<-started
	if next == gone {
		t.Fatal("joined a flight that was being cancelled")
	}
	<-gone.done
	if !errors.Is(gone.err, errAbandoned) {
		t.Errorf("abandoned flight: %v", gone.err)
	}
	f.leave(next)
	f.wait()
	base, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.join(t.Context(), base, "k", op); !errors.Is(err, context.Canceled) {
		t.Errorf("take-off after the end: %v", err)
	}
}

func TestKeyLock(t *testing.T) {
	var l keyLock
	if err := l.Lock(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := l.Lock(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Lock(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("lock that is held: %v", err)
	}
	n := 0
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := l.Lock(t.Context(), "a"); err != nil {
				t.Error(err)
				return
			}
			n++
			l.Unlock("a")
		})
	}
	l.Unlock("a")
	l.Unlock("b")
	wg.Wait()
	if n != 50 || len(l.m) != 0 {
		t.Errorf("%d went through, %d entries are left", n, len(l.m))
	}
}

func TestReadAhead(t *testing.T) {
	for _, size := range []int{0, 1, readAheadChunk, readAheadChunk + 1, 9*readAheadChunk + 17} {
		want := bytes.Repeat([]byte("0123456789"), size/10+1)[:size]
		r := newReadAhead(iotest.HalfReader(bytes.NewReader(want)))
		got, err := io.ReadAll(iotest.OneByteReader(io.LimitReader(r, 5)))
		if err == nil {
			var rest []byte
			rest, err = io.ReadAll(r)
			got = append(got, rest...)
		}
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got %d, %v", size, len(got), err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	broken := newReadAhead(io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(io.ErrUnexpectedEOF)))
	if got, err := io.ReadAll(broken); !errors.Is(err, io.ErrUnexpectedEOF) || string(got) != "abc" {
		t.Errorf("broken stream: %q, %v", got, err)
	}
	// Closing in the middle ends the goroutine, which is blocked on a full queue.
	if err := newReadAhead(zeroReader{}).Close(); err != nil {
		t.Error(err)
	}
}

func TestStall(t *testing.T) {
	ctx, watch := watchStall(t.Context(), 20*time.Millisecond)
	for range 5 {
		time.Sleep(5 * time.Millisecond)
		watch.beat()
	}
	if ctx.Err() != nil {
		t.Log("the machine stalled for longer than the watch waits") // not this test's fault
	}
	<-ctx.Done()
	if !errors.Is(context.Cause(ctx), errStalled) {
		t.Errorf("cause %v", context.Cause(ctx))
	}
	ctx, watch = watchStall(t.Context(), time.Nanosecond)
	watch.stop()
	<-ctx.Done()
}
