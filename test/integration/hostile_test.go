// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"archive/tar"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testnode"
	"github.com/embedcri/embedcri/internal/testregistry"
)

// hostileNode is a node and the means to build images that mean it ill.
type hostileNode struct {
	*testnode.Node
	pc  *runtimeapi.PodSandboxConfig
	pod string
}

// image pushes busybox with a further layer and returns its reference.
func (n *hostileNode) image(name string, config *v1.Config, entries ...testregistry.Entry) string {
	n.T.Helper()
	base, err := testregistry.BusyboxLayer()
	if err != nil {
		n.T.Fatal(err)
	}
	layers := []v1.Layer{base}
	if len(entries) > 0 {
		l, err := testregistry.Layer(entries...)
		if err != nil {
			n.T.Fatal(err)
		}
		layers = append(layers, l)
	}
	img, err := testregistry.Build("", config, layers...)
	if err != nil {
		n.T.Fatal(err)
	}
	ref, _ := registry.Push(n.T, name, img)
	return ref
}

// create asks for a container of a pulled image.
func (n *hostileNode) create(ref string, change func(*runtimeapi.ContainerConfig)) (string, error) {
	c := n.ContainerConfig(ref)
	c.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	if change != nil {
		change(c)
	}
	return n.Runtime.CreateContainer(n.Ctx(), n.pod, c, n.pc)
}

// TestHostileImages wants of each image a clear error or the right result, soon, in little memory, and a daemon that goes on.
func TestHostileImages(t *testing.T) {
	n := &hostileNode{Node: testnode.Start(t, testnode.Options{NoNetwork: true})}
	n.pc = n.HostPodConfig()
	n.pod = n.RunPod(n.pc)
	byName := func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext.RunAsUsername = "app" }
	header := func(name string, kind byte, link string) testregistry.Entry {
		return testregistry.Entry{Header: tar.Header{Name: name, Typeflag: kind, Linkname: link, Mode: 0o644, Devmajor: 1, Devminor: 5}}
	}
	before := field(t, fmt.Sprintf("/proc/%d/status", n.Pid()), "VmRSS:")

	for _, tt := range []struct {
		name   string
		config *v1.Config
		layer  []testregistry.Entry
		spoil  func(root string) // of the unpacked layer
		change func(*runtimeapi.ContainerConfig)
		code   codes.Code
		text   string
	}{
		{name: "passwd of 2 GiB", layer: []testregistry.Entry{testregistry.File("etc/passwd", 0o644, []byte("app:x:7:7::/:\n"))},
			spoil: func(root string) {
				if err := os.Truncate(filepath.Join(root, "etc/passwd"), 2<<30); err != nil {
					t.Fatal(err)
				}
			}, change: byName, code: codes.InvalidArgument, text: "/etc/passwd"},
		{name: "group a FIFO", layer: []testregistry.Entry{header("etc/group", tar.TypeFifo, "")}, change: byName, code: codes.InvalidArgument, text: "/etc/group"},
		{name: "passwd a FIFO", layer: []testregistry.Entry{header("etc/passwd", tar.TypeFifo, "")}, code: codes.InvalidArgument, text: "/etc/passwd"},
		{name: "passwd a device", layer: []testregistry.Entry{header("etc/passwd", tar.TypeChar, "")}, change: byName, code: codes.InvalidArgument, text: "/etc/passwd"},
		{name: "passwd a directory", layer: []testregistry.Entry{testregistry.Whiteout("etc/passwd"), testregistry.Dir("etc/passwd", 0o755)}, change: byName,
			code: codes.InvalidArgument, text: "/etc/passwd"},
		// Links stay in the image, where there is no such file: nobody is found, least of all a user of the host's.
		{name: "passwd a link to that of the host", layer: []testregistry.Entry{header("etc/passwd", tar.TypeSymlink, "/etc/shadow")}, change: byName,
			code: codes.InvalidArgument, text: "run_as_username"},
		{name: "passwd a link upwards", layer: []testregistry.Entry{header("etc/passwd", tar.TypeSymlink, "../../../../../../../etc/shadow")}, change: byName,
			code: codes.InvalidArgument, text: "run_as_username"},
		{name: "passwd a link to itself", layer: []testregistry.Entry{header("etc/passwd", tar.TypeSymlink, "passwd")}, change: byName, code: codes.InvalidArgument, text: "passwd"},
		{name: "user with a newline", config: &v1.Config{User: "app\nroot", Cmd: []string{"true"}}, code: codes.InvalidArgument, text: "User of the image"},
		{name: "user beyond all ids", config: &v1.Config{User: "99999999999", Cmd: []string{"true"}}, code: codes.InvalidArgument, text: "User of the image"},
		{name: "no command", config: &v1.Config{}, code: codes.InvalidArgument, text: "command"},
		{name: "command with a NUL byte", config: &v1.Config{Cmd: []string{"a\x00b"}}, code: codes.InvalidArgument, text: "NUL"},
		{name: "too many volumes", config: &v1.Config{Cmd: []string{"true"}, Volumes: volumes(1000)}, code: codes.InvalidArgument, text: "volumes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := &hostileNode{n.In(t), n.pc, n.pod}
			if tt.config == nil {
				tt.config = &v1.Config{Cmd: []string{"true"}}
			}
			ref := n.image("hostile-"+strings.ReplaceAll(strings.ToLower(tt.name), " ", "-")+":1", tt.config, tt.layer...)
			n.Pull(ref)
			if tt.spoil != nil {
				tt.spoil(layerWith(t, n.Node, "app:x:7:7:"))
			}
			begun := time.Now()
			_, err := n.create(ref, tt.change)
			want(t, err, tt.code, tt.text)
			if d := time.Since(begun); d > 20*time.Second {
				t.Errorf("took %v", d)
			}
		})
	}

	t.Run("entrypoint a directory", func(t *testing.T) {
		n := &hostileNode{n.In(t), n.pc, n.pod}
		ref := n.image("hostile-directory:1", &v1.Config{Entrypoint: []string{"/etc"}})
		n.Pull(ref)
		id, err := n.create(ref, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Runtime.StartContainer(n.Ctx(), id); err == nil || !strings.Contains(err.Error(), "/etc") {
			t.Errorf("start: %v", err)
		}
		if s := n.WaitExited(id); s.ExitCode != 126 || s.Reason != "StartError" {
			t.Errorf("code %d, %s: %s", s.ExitCode, s.Reason, s.Message)
		}
	})
	t.Run("100,000 variables", func(t *testing.T) {
		n := &hostileNode{n.In(t), n.pc, n.pod}
		// In the 2 MiB that execve(2) takes, and beyond them. No shell, which would sort them into a list.
		config := &v1.Config{Cmd: []string{"env"}, Env: variables("")}
		ref := n.image("hostile-env:1", config)
		n.Pull(ref)
		id, err := n.create(ref, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Runtime.StartContainer(n.Ctx(), id); err != nil {
			t.Fatal(err)
		}
		s := n.WaitExited(id)
		seen := 0
		for _, l := range n.ContainerLog(id) {
			if strings.HasPrefix(l, "stdout F V") {
				seen++
			}
		}
		if s.ExitCode != 0 || seen != 100_000 {
			t.Errorf("code %d, %s; %d variables", s.ExitCode, s.Message, seen)
		}
		config.Env = variables("0123456789012345")
		ref = n.image("hostile-env:2", config)
		n.Pull(ref)
		if id, err = n.create(ref, nil); err != nil {
			t.Fatal(err)
		}
		err = n.Runtime.StartContainer(n.Ctx(), id)
		if s = n.Status(id); err == nil {
			s = n.WaitExited(id)
		}
		if s.ExitCode == 0 || !strings.Contains(strings.ToLower(fmt.Sprint(err, s.Message, n.ContainerLog(id))), "argument list too long") {
			t.Errorf("more than execve takes: start %v; code %d, %s: %s; log %q", err, s.ExitCode, s.Reason, s.Message, n.ContainerLog(id))
		}
	})
	t.Run("configuration", func(t *testing.T) {
		n := &hostileNode{n.In(t), n.pc, n.pod}
		base, err := testregistry.BusyboxLayer()
		if err != nil {
			t.Fatal(err)
		}
		img, err := testregistry.Build("", nil, base)
		if err != nil {
			t.Fatal(err)
		}
		for i, config := range []string{"this is no JSON", "", `{"config": {"Env": 7}}`, `[]`, strings.Repeat(`{"a":`, 100_000)} {
			bad, err := testregistry.WithConfig(img, []byte(config))
			if err != nil {
				t.Fatal(err)
			}
			ref, _ := registry.Push(t, fmt.Sprintf("hostile-config:%d", i), bad)
			begun := time.Now()
			if _, err := n.Images.PullImage(n.Ctx(), &runtimeapi.ImageSpec{Image: ref}, nil, nil); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), ref) {
				t.Errorf("configuration %.30q: %v", config, err)
			} else {
				t.Logf("%.30q: %.300v", config, err)
			}
			if d := time.Since(begun); d > 20*time.Second {
				t.Errorf("configuration %.30q took %v", config, d)
			}
		}
	})

	// The configurations of 100,000 variables cost tens of MiB for a while. What the daemon must not do is to read 2 GiB.
	if now := field(t, fmt.Sprintf("/proc/%d/status", n.Pid()), "VmHWM:"); now-before > 192<<10 {
		t.Errorf("the daemon grew from %d KiB to %d KiB at its peak", before, now)
	} else {
		t.Logf("the daemon grew from %d KiB to %d KiB at its peak", before, now)
	}
	n.Pull(registry.Ref(t, "busybox:1"))
	id := n.Run(n.pod, n.pc, n.ContainerConfig(registry.Ref(t, "busybox:1"), "true"))
	if s := n.WaitExited(id); s.ExitCode != 0 {
		t.Errorf("afterwards: code %d, %s", s.ExitCode, s.Message)
	}
}

func volumes(n int) map[string]struct{} {
	out := map[string]struct{}{}
	for i := range n {
		out[fmt.Sprintf("/v%d", i)] = struct{}{}
	}
	return out
}

// variables are 100,000, each with a value.
func variables(value string) []string {
	env := []string{"PATH=/bin"}
	for i := range 100_000 {
		env = append(env, fmt.Sprintf("V%x=%s", i, value))
	}
	return env
}

// layerWith is the directory of the layer whose /etc/passwd has this line first.
func layerWith(t *testing.T, n *testnode.Node, line string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(n.Dir, "root/image/overlayfs/snapshots/*/fs/etc/passwd"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(b), line) {
			return filepath.Dir(filepath.Dir(f))
		}
	}
	t.Fatalf("no layer has an /etc/passwd that begins with %q", line)
	return ""
}
