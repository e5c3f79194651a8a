// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testenv"
	"github.com/embedcri/embedcri/internal/testregistry"
)

// kubeSecret is a line of an htpasswd file for user kube with password secret.
const kubeSecret = "kube:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"

// distribution starts the registry that most of the world runs, Debian's package docker-registry, with
// HTTPS and a login, and returns its address.
func distribution(t *testing.T, certFile, keyFile string) string {
	t.Helper()
	binary := os.Getenv("EMBEDCRI_DOCKER_REGISTRY")
	if binary == "" {
		var err error
		if binary, err = exec.LookPath("docker-registry"); err != nil {
			t.Skipf("Debian's docker-registry is not installed: %v", err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil { // the program wants to listen by itself
		t.Fatal(err)
	}
	dir := t.TempDir()
	htpasswd, config := filepath.Join(dir, "htpasswd"), filepath.Join(dir, "config.yml")
	for file, text := range map[string]string{htpasswd: kubeSecret, config: fmt.Sprintf(`version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %s}}
http: {addr: %s, tls: {certificate: %s, key: %s}}
auth: {htpasswd: {realm: test, path: %s}}
`, filepath.Join(dir, "data"), addr, certFile, keyFile, htpasswd)} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(binary, "serve", config)
	var output bytes.Buffer // it writes a line for every blob that is not there yet
	cmd.Stderr = &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("docker-registry said: %s", &output)
		}
	})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_ = conn.Close()
			return addr
		}
		if time.Now().After(deadline) {
			t.Fatalf("docker-registry does not listen: %v", err)
		}
	}
}

// startDistribution starts that registry with an image in it, and returns the image's reference and who signed the certificate.
func startDistribution(t *testing.T) (name.Reference, *authority) {
	t.Helper()
	testenv.Require(t, "root")
	ca := newAuthority(t)
	_, certFile, keyFile := ca.Issue()
	addr := distribution(t, certFile, keyFile)
	ref, err := name.ParseReference(addr + "/team/app:1")
	if err != nil {
		t.Fatal(err)
	}
	img, err := testregistry.Random(7, 5, 300<<10)
	if err != nil {
		t.Fatal(err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = ca.Config()
	if err := remote.Write(ref, img, remote.WithTransport(transport), remote.WithAuth(&authn.Basic{Username: "kube", Password: "secret"})); err != nil {
		t.Fatal(err)
	}
	return ref, ca
}

func TestPullDistribution(t *testing.T) {
	ref, ca := startDistribution(t)
	addr := ref.Context().RegistryStr()

	s := open(t, Options{CertDirs: []string{certs(t, addr, fmt.Sprintf("server = \"https://%s\"\nca = %q\n", addr, ca.File))}})
	login := &runtimeapi.AuthConfig{Username: "kube", Password: "secret"}
	got, err := s.Pull(t.Context(), PullRequest{Ref: ref.String(), Auth: login})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(rootfs(t, s, "c1", got.ID), "layer4/file1")); err != nil {
		t.Error(err)
	}
	if _, err := s.Pull(t.Context(), PullRequest{Ref: addr + "/team/app:2", Auth: login}); !errdefs.IsNotFound(err) {
		t.Errorf("pull of a tag that is not there: %v", err)
	}
	if _, err := s.Pull(t.Context(), PullRequest{Ref: ref.String()}); !errdefs.IsUnauthorized(err) {
		t.Errorf("pull without a login: %v", err)
	}
}

// TestPullDistributionFaults puts each fault between the store and that registry: alone, and in a mirror of it.
func TestPullDistributionFaults(t *testing.T) {
	ref, ca := startDistribution(t)
	addr := ref.Context().RegistryStr()
	target := &url.URL{Scheme: "https", Host: addr}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = ca.Config()
	t.Cleanup(transport.CloseIdleConnections)
	silent := log.New(io.Discard, "", 0) // clients that leave early are part of it
	registry := &httputil.ReverseProxy{Transport: transport, ErrorLog: silent, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.SetBasicAuth("kube", "secret")
	}}
	for name, tc := range faultCases(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proxy := httptest.NewServer(tc.fault(registry))
			t.Cleanup(proxy.Close)
			proxied := strings.TrimPrefix(proxy.URL, "http://") + "/team/app:1"
			s := open(t, Options{ProgressTimeout: patience})
			_, err := s.Pull(t.Context(), PullRequest{Ref: proxied})
			tc.check(t, proxied, err)

			toml := fmt.Sprintf("server = \"https://%s\"\nca = %q\n[host.%q]\n", addr, ca.File, proxy.URL)
			s = open(t, Options{ProgressTimeout: patience, CertDirs: []string{certs(t, addr, toml)}})
			img, err := s.Pull(t.Context(), PullRequest{Ref: ref.String(), Auth: &runtimeapi.AuthConfig{Username: "kube", Password: "secret"}})
			if err != nil {
				t.Fatalf("pull with a mirror that %s: %v", name, err)
			}
			if _, err := os.Stat(filepath.Join(rootfs(t, s, "c1", img.ID), "layer4/file1")); err != nil {
				t.Error(err)
			}
		})
	}
}
