// SPDX-License-Identifier: Apache-2.0

package critest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/embedcri/embedcri/internal/testenv"
	"github.com/embedcri/embedcri/internal/testregistry"
)

// Where the suite's images come from. Their paths do not clash, so one registry stands in for all of them.
var hosts = []string{"registry.k8s.io", "k8s.gcr.io", "gcr.io"}

const (
	e2e     = "e2e-test-images/"       // on registry.k8s.io
	staging = "k8s-staging-cri-tools/" // on gcr.io

	digestImage = staging + "test-image-digest"
)

// served is what the daemon and the tests need to know of the images.
type served struct {
	certs  string // for image.cert_dirs: leads to the registry
	digest string // of digestImage
}

// serveImages serves every image that the suite asks for until the test ends.
func serveImages(t *testing.T) served {
	t.Helper()
	registry := testregistry.Start(t, testregistry.Options{})
	images, err := build(t.TempDir())
	if err != nil {
		t.Fatalf("build the images of critest: %v", err)
	}
	var s served
	for name, image := range images {
		if _, digest := registry.Push(t, name, image); name == digestImage+":latest" {
			s.digest = digest
		}
	}
	s.certs = t.TempDir()
	for _, host := range hosts {
		dir := filepath.Join(s.certs, host)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		mirror := "http://" + registry.Addr
		toml := fmt.Sprintf("server = %q\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", mirror, mirror)
		if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(toml), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// build makes the images, by path and tag.
func build(dir string) (map[string]v1.Image, error) {
	guest, err := compileGuest(dir)
	if err != nil {
		return nil, err
	}
	files, err := busyboxFiles()
	if err != nil {
		return nil, err
	}
	// Applets that Debian leaves out.
	files = append(files, testregistry.File("bin/pgrep", 0o755, guest), link("bin/ipcs", "bin/pgrep"))
	base, err := testregistry.Layer(files...)
	if err != nil {
		return nil, err
	}
	b := &builder{base: base, guest: guest, images: map[string]v1.Image{}}

	b.add(e2e+"busybox:1.29-2", v1.Config{Cmd: []string{"sh"}})
	b.add(e2e+"nginx:1.14-2", v1.Config{Entrypoint: []string{"nginx"}}, b.program("usr/sbin/nginx", 0o755))
	b.add(e2e+"httpd:2.4.39-4", v1.Config{Entrypoint: []string{"httpd"}}, b.program("usr/sbin/httpd", 0o755))
	b.add(staging+"hostnet-nginx-"+runtime.GOARCH+":latest", v1.Config{Entrypoint: []string{"nginx", ":12003"}}, b.program("usr/sbin/nginx", 0o755))
	// A set-user-id program: 1000 becomes 0, unless no_new_privs.
	b.add(e2e+"nonewprivs:1.3", v1.Config{Entrypoint: []string{"/nonewprivs"}}, b.program("nonewprivs", 0o4755))
	b.add("pause:3.9", v1.Config{Entrypoint: []string{"/pause"}}, b.program("pause", 0o755))

	b.add(staging+"test-image-user-uid:latest", v1.Config{User: "1002"})
	b.add(staging+"test-image-user-username:latest", v1.Config{User: "www-data"})
	b.add(staging+"test-image-user-uid-group:latest", v1.Config{User: "1003:1004"})
	b.add(staging+"test-image-user-username-group:latest", v1.Config{User: "www-data:1004"})
	// uid 1000, by /etc/group also in 50000.
	b.add(staging+"test-image-predefined-group:latest", v1.Config{User: "1000"}, testregistry.File("etc/group", 0o644,
		[]byte("root:x:0:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n")))

	// Images that differ in nothing but a file of their name.
	b.add(digestImage+":latest", v1.Config{Cmd: []string{"sh"}}, testregistry.File("name", 0o644, []byte("test-image-digest")))
	for _, name := range []string{"test-image-1:latest", "test-image-2:latest", "test-image-3:latest", "test-image-latest:latest",
		"test-image-tag:test", "test-image-tag:all"} {
		b.add(staging+name, v1.Config{Cmd: []string{"sh"}}, testregistry.File("name", 0o644, []byte(name)))
	}
	for _, tag := range []string{"1", "2", "3"} {
		b.add(staging+"test-image-tags:"+tag, v1.Config{Cmd: []string{"sh"}}, testregistry.File("name", 0o644, []byte("test-image-tags")))
	}
	return b.images, b.err
}

// builder makes images of the base and a few files more; the first error sticks.
type builder struct {
	base   v1.Layer
	guest  []byte
	images map[string]v1.Image
	err    error
}

func (b *builder) add(name string, config v1.Config, files ...testregistry.Entry) {
	if b.err != nil {
		return
	}
	layers := []v1.Layer{b.base}
	if len(files) > 0 {
		layer, err := testregistry.Layer(files...)
		if err != nil {
			b.err = fmt.Errorf("image %s: %w", name, err)
			return
		}
		layers = append(layers, layer)
	}
	config.Env = []string{"PATH=/usr/sbin:/bin"}
	if b.images[name], b.err = testregistry.Build(runtime.GOARCH, &config, layers...); b.err != nil {
		b.err = fmt.Errorf("image %s: %w", name, b.err)
	}
}

// program is the guest program under another name.
func (b *builder) program(path string, mode int64) testregistry.Entry {
	return testregistry.File(path, mode, b.guest)
}

// link is a hard link to an executable of the same layer.
func link(name, target string) testregistry.Entry {
	e := testregistry.Hardlink(name, target)
	e.Mode = 0o755
	return e
}

func compileGuest(dir string) ([]byte, error) {
	if built := testenv.Program("guest"); built != "" {
		return os.ReadFile(built)
	}
	out := filepath.Join(dir, "guest")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "./guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile guest: %w: %s", err, msg)
	}
	return os.ReadFile(out)
}
