// SPDX-License-Identifier: Apache-2.0

package image

import (
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testregistry"
)

func TestPullLogin(t *testing.T) {
	b64 := base64.StdEncoding.EncodeToString
	for name, tc := range map[string]struct {
		server func(http.Handler) http.Handler
		auth   *runtimeapi.AuthConfig
		class  error
	}{
		"basic":              {wantsPassword, &runtimeapi.AuthConfig{Username: "kube", Password: "secret"}, nil},
		"basic auth":         {wantsPassword, &runtimeapi.AuthConfig{Auth: b64([]byte("kube:secret"))}, nil},
		"basic wrong":        {wantsPassword, &runtimeapi.AuthConfig{Username: "kube", Password: "guess"}, errdefs.ErrUnauthenticated},
		"basic none":         {wantsPassword, nil, errdefs.ErrUnauthenticated},
		"basic other server": {wantsPassword, &runtimeapi.AuthConfig{Username: "kube", Password: "secret", ServerAddress: "https://example.com/v1/"}, errdefs.ErrUnauthenticated},
		"token password":     {wantsToken, &runtimeapi.AuthConfig{Username: "kube", Password: "secret"}, nil},
		"token identity":     {wantsToken, &runtimeapi.AuthConfig{IdentityToken: "refresh"}, nil},
		"token registry":     {wantsToken, &runtimeapi.AuthConfig{RegistryToken: "good"}, nil},
		"token bad registry": {wantsToken, &runtimeapi.AuthConfig{RegistryToken: "bad"}, errdefs.ErrUnauthenticated},
		"token wrong":        {wantsToken, &runtimeapi.AuthConfig{Username: "kube", Password: "guess"}, errdefs.ErrUnauthenticated},
		"token none":         {wantsToken, nil, errdefs.ErrUnauthenticated},
		"auth not base64":    {wantsPassword, &runtimeapi.AuthConfig{Auth: "kube:secret"}, errdefs.ErrInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := testregistry.Start(t, testregistry.Options{Wrap: tc.server})
			s := open(t, Options{})
			ref := reg.Ref(t, "scratch:1")
			_, err := s.Pull(t.Context(), PullRequest{Ref: ref, Auth: tc.auth})
			if !errors.Is(err, tc.class) {
				t.Errorf("pull: %v, want %v", err, tc.class)
			}
			if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "guess")) {
				t.Errorf("the message has the password in it: %v", err)
			}
		})
	}
}

// TestPullKeepsPassword checks that a server which a registry redirects to cannot ask for the login.
func TestPullKeepsPassword(t *testing.T) {
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the login went to a foreign server")
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="yours truly"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer thief.Close()
	reg := testregistry.Start(t, testregistry.Options{Wrap: func(next http.Handler) http.Handler {
		return wantsPassword(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if isBlob(r) {
				http.Redirect(w, r, strings.Replace(thief.URL, "127.0.0.1", "localhost", 1)+r.URL.Path, http.StatusFound)
				return
			}
			next.ServeHTTP(w, r)
		}))
	}})
	s := open(t, Options{})
	_, err := s.Pull(t.Context(), PullRequest{Ref: reg.Ref(t, "scratch:1"), Auth: &runtimeapi.AuthConfig{Username: "kube", Password: "secret"}})
	if !errors.Is(err, errdefs.ErrUnauthenticated) {
		t.Errorf("pull: %v", err)
	}
}

func TestPullTLS(t *testing.T) {
	ca := newAuthority(t)
	cert, _, _ := ca.Issue()
	_, clientCert, clientKey := ca.Issue()
	for name, tc := range map[string]struct {
		hosts  string // after server = …
		mutual bool
		ok     bool
	}{
		"private CA":         {hosts: fmt.Sprintf("ca = %q", ca.File), ok: true},
		"unknown CA":         {hosts: "skip_verify = false"},
		"not verified":       {hosts: "skip_verify = true", ok: true},
		"client certificate": {hosts: fmt.Sprintf("ca = %q\nclient = [[%q, %q]]", ca.File, clientCert, clientKey), mutual: true, ok: true},
		"client without one": {hosts: fmt.Sprintf("ca = %q", ca.File), mutual: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := &tls.Config{Certificates: []tls.Certificate{cert}}
			if tc.mutual {
				config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, ca.Pool()
			}
			reg := testregistry.Start(t, testregistry.Options{TLS: config})
			ref := reg.Ref(t, "scratch:1")
			s := open(t, Options{CertDirs: []string{certs(t, reg.Addr, fmt.Sprintf("server = \"https://%s\"\n%s\n", reg.Addr, tc.hosts))}})
			_, err := s.Pull(t.Context(), PullRequest{Ref: ref})
			if tc.ok && err != nil {
				t.Error(err)
			}
			if !tc.ok && (!errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "certificate")) {
				t.Errorf("pull: %v", err)
			}
		})
	}
}

func TestPullPolicy(t *testing.T) {
	reg := testregistry.Start(t, testregistry.Options{})
	dir := t.TempDir()
	s := open(t, Options{VerifierDir: dir})
	script := "#!/bin/sh\ncase \"$*\" in *busybox*) echo 'busybox is not welcome here'; exit 1;; esac\n"
	if err := os.WriteFile(filepath.Join(dir, "policy"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	pull(t, s, reg.Ref(t, "scratch:1"))
	_, err := s.Pull(t.Context(), PullRequest{Ref: reg.Ref(t, "busybox:1")})
	var pe *PullError
	if !errdefs.IsPermissionDenied(err) || !errors.As(err, &pe) || !pe.Denied || !strings.Contains(err.Error(), "busybox is not welcome here") {
		t.Errorf("pull: %v", err)
	}
	if reg.Count("GET /v2/busybox/blobs/") != 0 {
		t.Error("layers were downloaded all the same")
	}
}
