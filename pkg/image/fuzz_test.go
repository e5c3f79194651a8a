// SPDX-License-Identifier: Apache-2.0

package image

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// FuzzReference: a name that is taken is complete, means the same read again, and cannot pass for an image id.
func FuzzReference(f *testing.F) {
	for _, s := range []string{"busybox", "quay.io/a/b:1", "a@sha256:" + strings.Repeat("0", 64), "a:b@sha256:" + strings.Repeat("f", 64),
		"../x", "localhost:5000/x", "[::1]:5000/x", "sha256:abc", strings.Repeat("a", 64), "UPPER/x", "a//b", "x\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		named, err := parseReference(s)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("of the wrong class: %v", err)
			}
			return
		}
		again, err := parseReference(named.String())
		if err != nil || again.String() != named.String() {
			t.Errorf("%q is %q, and read again %v, %v", s, named, again, err)
		}
		if isID(named.String()) || reference.Domain(named) == "" || strings.Contains(reference.Path(named), "..") {
			t.Errorf("%q is %q", s, named)
		}
		names, err := records(named, digest.FromString(s))
		if err != nil || len(names) == 0 {
			t.Errorf("records of %q: %q, %v", named, names, err)
		}
	})
}

// FuzzAuth: an error never repeats the secret.
func FuzzAuth(f *testing.F) {
	f.Add("", "dXNlcjpwYXNz", "https://index.docker.io/v1/")
	f.Add("", "no base64: secret", "://")
	f.Add("user", "", "[::1")
	f.Add("user", "", "0@") // an address without a host
	f.Fuzz(func(t *testing.T, user, auth, server string) {
		c, err := parseAuth(&runtimeapi.AuthConfig{Username: user, Auth: auth, ServerAddress: server})
		if err == nil {
			if server != "" && c.server == "" {
				t.Errorf("a login for %q goes to every registry", server)
			}
			return
		}
		if !errdefs.IsInvalidArgument(err) || len(auth) > 8 && strings.Contains(err.Error(), auth) {
			t.Errorf("error %v", err)
		}
	})
}

// FuzzArchived: the index of an archive from anybody's disk.
func FuzzArchived(f *testing.F) {
	f.Add("io.containerd.image.name", "docker.io/library/x:1", "")
	f.Add("org.opencontainers.image.ref.name", "1", "example.com/x")
	f.Add("org.opencontainers.image.ref.name", "../../1", "example.com/x")
	f.Fuzz(func(t *testing.T, key, value, base string) {
		found, err := archived([]ocispec.Descriptor{{Digest: digest.FromString("x"), Annotations: map[string]string{key: value}}}, base)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("of the wrong class: %v", err)
			}
			return
		}
		for _, i := range found {
			for _, n := range i.names {
				if _, err := reference.ParseNamed(n); err != nil {
					t.Errorf("%q under %q: %v", value, n, err)
				}
			}
		}
	})
}
