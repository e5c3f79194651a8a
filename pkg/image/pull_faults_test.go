// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/embedcri/embedcri/internal/testregistry"
)

// faultCase is what a fault of the only server does to a pull.
type faultCase struct {
	fault func(http.Handler) http.Handler
	class error // nil if the pull succeeds
	words string
}

func (c faultCase) check(t *testing.T, ref string, err error) {
	t.Helper()
	if c.class == nil && err != nil {
		t.Errorf("pull: %v", err)
	}
	if c.class != nil && (!errors.Is(err, c.class) || !strings.Contains(err.Error(), c.words) || !strings.Contains(err.Error(), ref)) {
		t.Errorf("pull: %v\nwant class %v, and %q in it", err, c.class, c.words)
	}
}

func faultCases(t *testing.T) map[string]faultCase {
	return map[string]faultCase{
		"answers 500": {answers500, errdefs.ErrUnavailable, "500"},
		"answers 404": {answers404, errdefs.ErrNotFound, "not found"},
		"truncates":   {truncates, errdefs.ErrUnavailable, "EOF"},
		"corrupts":    {corrupts, errdefs.ErrDataLoss, "digest"},
		"lengthens":   {lengthens, errdefs.ErrDataLoss, "size"},
		"stalls":      {stalls, errdefs.ErrUnavailable, "nothing received for " + patience.String()},
		"rate limit":  {limitsRate("0"), nil, ""},
		"rate refuse": {refusesRate, errdefs.ErrResourceExhausted, "429"},
		"redirects":   {redirects(t), nil, ""},
		"no ranges":   {refusesRanges, errdefs.ErrUnavailable, "EOF"},
		"slow":        {dribbles, nil, ""},
	}
}

// TestPullFaults pulls from a registry with a fault: without a mirror, and as a mirror of a good one.
func TestPullFaults(t *testing.T) {
	for name, tc := range faultCases(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var options Options
			if name == "stalls" || name == "slow" {
				options.ProgressTimeout = patience
			}
			reg := testregistry.Start(t, testregistry.Options{Wrap: tc.fault})
			s := open(t, options)
			ref := reg.Ref(t, "busybox:2")
			img, err := s.Pull(t.Context(), PullRequest{Ref: ref})
			tc.check(t, ref, err)
			if err == nil {
				rootfs(t, s, "c1", img.ID)
			}

			good, certDirs, mirror := mirrored(t, tc.fault, "busybox:2")
			options.CertDirs = certDirs
			s = open(t, options)
			img, err = s.Pull(t.Context(), PullRequest{Ref: good.Addr + "/busybox:2"})
			if err != nil {
				t.Fatalf("pull with a mirror that %s: %v", name, err)
			}
			rootfs(t, s, "c2", img.ID)
			if n := good.Count("GET /v2/busybox/blobs/"); (n > 0) != (tc.class != nil) {
				t.Errorf("%d blobs came from the registry itself", n)
			}
			if tc.class == nil && mirror.Count("GET /v2/busybox/blobs/") == 0 {
				t.Error("the mirror was not used")
			}
		})
	}
}

// TestPullMirrorAskedOnce checks that a mirror which hangs costs one wait and not one for each layer.
func TestPullMirrorAskedOnce(t *testing.T) {
	reg, certDirs, mirror := mirrored(t, stalls)
	img, err := testregistry.Random(11, 8, 128<<10)
	if err != nil {
		t.Fatal(err)
	}
	mirror.Push(t, "app:1", img)
	ref, _ := reg.Push(t, "app:1", img)
	s := open(t, Options{CertDirs: certDirs, MaxDownloads: 1, ProgressTimeout: patience})
	start := time.Now()
	pull(t, s, ref)
	if took := time.Since(start); took > 5*patience { // a wait for each layer would be eight
		t.Errorf("the pull took %v", took)
	}
	if n := mirror.Count("GET /v2/app/blobs/"); n > 2 {
		t.Errorf("the mirror was asked for %d blobs", n)
	}
}

func TestPullMirrorDown(t *testing.T) {
	reg, certDirs, mirror := mirrored(t, nil, "busybox:1")
	if err := mirror.Close(); err != nil {
		t.Fatal(err)
	}
	s := open(t, Options{CertDirs: certDirs})
	pull(t, s, reg.Addr+"/busybox:1")
	if err := reg.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := s.Pull(t.Context(), PullRequest{Ref: reg.Addr + "/busybox:1"})
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), mirror.Addr) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("pull with all servers down: %v", err)
	}
}

func TestPullBadConfiguration(t *testing.T) {
	reg := testregistry.Start(t, testregistry.Options{})
	s := open(t, Options{CertDirs: []string{certs(t, reg.Addr, "server = ")}})
	ref := reg.Ref(t, "busybox:1")
	if _, err := s.Pull(t.Context(), PullRequest{Ref: ref}); !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), "hosts.toml") {
		t.Errorf("pull past a hosts.toml that cannot be read: %v", err)
	}
	// Corrected, it counts without a restart.
	dir := certs(t, reg.Addr, fmt.Sprintf("server = \"http://%s\"\n", reg.Addr))
	if err := os.RemoveAll(s.options.CertDirs[0]); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, s.options.CertDirs[0]); err != nil {
		t.Fatal(err)
	}
	pull(t, s, ref)
}
