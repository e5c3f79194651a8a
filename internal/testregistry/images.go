// SPDX-License-Identifier: Apache-2.0

package testregistry

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"

	"github.com/embedcri/embedcri/internal/testenv"
)

// Busybox is the program that the busybox images are made of: Debian's busybox-static.
const Busybox = "/bin/busybox"

const programs = "github.com/embedcri/embedcri/internal/testregistry/program/"

// known are the images that [Registry.Ref] can make, by repository and tag.
var known = map[string]func() (partial.Describable, error){
	"busybox:1":    func() (partial.Describable, error) { return busybox("") },
	"busybox:2":    func() (partial.Describable, error) { return busybox("2") },
	"exit:1":       func() (partial.Describable, error) { return program("exit", nil) },
	"httpd:1":      func() (partial.Describable, error) { return program("httpd", map[string]struct{}{"8080/tcp": {}}) },
	"stream:1":     func() (partial.Describable, error) { return busyboxWith("stream") },
	"bench:1":      func() (partial.Describable, error) { return busyboxWith("stream", "wait") },
	"pause:1":      pause,
	"config:1":     func() (partial.Describable, error) { return configured() },
	"user-name:1":  func() (partial.Describable, error) { return userImage("app") },
	"user-id:1":    func() (partial.Describable, error) { return userImage("1000:2000") },
	"multiarch:1":  multiarch,
	"scratch:1":    func() (partial.Describable, error) { return Build("", &v1.Config{Cmd: []string{"/none"}}) },
	"arm64-only:1": func() (partial.Describable, error) { return busyboxFor("arm64", "") },
}

// Names lists the images that [Registry.Ref] can make.
func Names() []string { return slices.Sorted(maps.Keys(known)) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func busybox(version string) (v1.Image, error) { return busyboxFor("", version) }

// busyboxFor is a small root file system with every busybox applet. The version only makes a second
// image of the same name with another digest.
func busyboxFor(arch, version string) (v1.Image, error) {
	layer, err := busyboxLayer()
	if err != nil {
		return nil, err
	}
	layers := []v1.Layer{layer}
	if version != "" {
		second, err := Layer(File("etc/version", 0o644, []byte(version+"\n")))
		if err != nil {
			return nil, err
		}
		layers = append(layers, second)
	}
	return Build(arch, &v1.Config{
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Cmd: []string{"sh"},
	}, layers...)
}

// BusyboxLayer is the layer that the busybox images are made of.
func BusyboxLayer() (v1.Layer, error) { return busyboxLayer() }

func busyboxLayer() (v1.Layer, error) {
	binary, err := os.ReadFile(Busybox)
	if err != nil {
		return nil, fmt.Errorf("busybox image (is Debian's busybox-static installed?): %w", err)
	}
	list, err := exec.Command(Busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list busybox applets: %w", err)
	}
	entries := []Entry{
		Dir("bin", 0o755), Dir("dev", 0o755), Dir("etc", 0o755), Dir("home", 0o755), Dir("home/app", 0o755),
		Dir("proc", 0o555), Dir("root", 0o700), Dir("run", 0o755), Dir("sys", 0o555), Dir("tmp", 0o1777),
		Dir("usr", 0o755), Dir("usr/bin", 0o755), Dir("var", 0o755), Dir("var/tmp", 0o1777),
		File("bin/busybox", 0o755, binary),
		File("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n"+
			"app:x:1000:1000:app:/home/app:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n")),
		File("etc/group", 0o644, []byte("root:x:0:\ndaemon:x:1:\napp:x:1000:\nextra:x:2000:app\nnogroup:x:65534:\n")),
		File("etc/hostname", 0o644, []byte("busybox\n")),
	}
	for applet := range strings.FieldsSeq(string(list)) {
		if applet != "busybox" {
			entries = append(entries, Symlink("bin/"+applet, "busybox"))
		}
	}
	return Layer(entries...)
}

// program is an image of one static Go program, at /NAME, which is also its entry point.
func program(name string, ports map[string]struct{}) (v1.Image, error) {
	binary, err := compile(name)
	if err != nil {
		return nil, err
	}
	layer, err := Layer(Dir("etc", 0o755), File(name, 0o755, binary),
		File("etc/passwd", 0o644, []byte("root:x:0:0:root:/:/\n")), File("etc/group", 0o644, []byte("root:x:0:\n")))
	if err != nil {
		return nil, err
	}
	return Build("", &v1.Config{Entrypoint: []string{"/" + name}, ExposedPorts: ports}, layer)
}

// busyboxWith is busybox with programs in its /bin: tests of streams also need a shell, stty, md5sum and the like.
func busyboxWith(programs ...string) (v1.Image, error) {
	base, err := busyboxLayer()
	if err != nil {
		return nil, err
	}
	var files []Entry
	for _, name := range programs {
		binary, err := compile(name)
		if err != nil {
			return nil, err
		}
		files = append(files, File("bin/"+name, 0o755, binary))
	}
	layer, err := Layer(files...)
	if err != nil {
		return nil, err
	}
	return Build("", &v1.Config{Env: []string{"PATH=/bin"}, Cmd: []string{"sh"}}, base, layer)
}

// pause is the image of pause containers, for runtimes that have them: busybox, which is a small static C program as the real
// one is, and sleeps.
func pause() (partial.Describable, error) {
	base, err := busyboxLayer()
	if err != nil {
		return nil, err
	}
	return Build("", &v1.Config{Entrypoint: []string{"/bin/sleep", "1000000000"}}, base)
}

// compile builds a program below program/ for containers. Linking is the slow part, so the binary is
// kept in the user's cache directory under the hash of its source.
func compile(name string) ([]byte, error) {
	if built := testenv.Program(name); built != "" {
		return os.ReadFile(built)
	}
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", programs+name).Output()
	if err != nil {
		return nil, fmt.Errorf("find program %s: %w", name, err)
	}
	source, err := os.ReadFile(filepath.Join(string(bytes.TrimSpace(dir)), "main.go"))
	if err != nil {
		return nil, fmt.Errorf("read program %s: %w", name, err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	cache = filepath.Join(cache, "embedcri-test")
	file := filepath.Join(cache, fmt.Sprintf("%s-%x", name, sha256.Sum256(source)))
	if binary, err := os.ReadFile(file); err == nil {
		return binary, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, fmt.Errorf("compile program %s: %w", name, err)
	}
	out, err := os.MkdirTemp(cache, "build-")
	if err != nil {
		return nil, fmt.Errorf("compile program %s: %w", name, err)
	}
	defer os.RemoveAll(out)
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", filepath.Join(out, name), programs+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile program %s: %w: %s", name, err, bytes.TrimSpace(msg))
	}
	binary, err := os.ReadFile(filepath.Join(out, name))
	if err != nil {
		return nil, fmt.Errorf("compile program %s: %w", name, err)
	}
	return binary, os.Rename(filepath.Join(out, name), file)
}

// configured is an image of three layers that sets everything a Dockerfile can set. The second layer
// removes /removed and empties /opaque, the third puts /opaque/new there.
func configured() (v1.Image, error) {
	base, err := busyboxLayer()
	if err != nil {
		return nil, err
	}
	first, err := Layer(Dir("opaque", 0o755), File("opaque/old", 0o644, []byte("old\n")), File("removed", 0o644, []byte("x\n")),
		Dir("data", 0o750), File("data/seed", 0o640, []byte("seed\n")))
	if err != nil {
		return nil, err
	}
	second, err := Layer(Whiteout("removed"), Dir("opaque", 0o755), Opaque("opaque"), File("opaque/new", 0o644, []byte("new\n")))
	if err != nil {
		return nil, err
	}
	return Build("", &v1.Config{
		User:         "app",
		Env:          []string{"PATH=/bin", "GREETING=hello"},
		Entrypoint:   []string{"/bin/sh", "-c"},
		Cmd:          []string{"echo $GREETING"},
		WorkingDir:   "/work/dir",
		ExposedPorts: map[string]struct{}{"8080/tcp": {}},
		Volumes:      map[string]struct{}{"/data": {}},
		StopSignal:   "SIGUSR1",
		Labels:       map[string]string{"org.opencontainers.image.title": "config"},
	}, base, first, second)
}

func userImage(user string) (v1.Image, error) {
	layer, err := busyboxLayer()
	if err != nil {
		return nil, err
	}
	return Build("", &v1.Config{User: user, Env: []string{"PATH=/bin"}, Cmd: []string{"sh"}}, layer)
}

func multiarch() (partial.Describable, error) {
	base, err := busyboxLayer()
	if err != nil {
		return nil, err
	}
	images := map[string]v1.Image{}
	for _, arch := range []string{"amd64", "arm64", "arm/v7", "s390x"} {
		layer, err := Layer(File("arch", 0o644, []byte(arch+"\n")))
		if err != nil {
			return nil, err
		}
		if images[arch], err = Build(arch, &v1.Config{Cmd: []string{"cat", "/arch"}}, base, layer); err != nil {
			return nil, err
		}
	}
	return Index(images)
}
