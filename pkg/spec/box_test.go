// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/cap"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/testenv"
)

// box is a place to run one container in.
type box struct {
	t       *testing.T
	runtime string
	dir     string // the bundle
	in      Input
}

const busybox = "/bin/busybox"

// newBox makes a root file system around a static busybox, and a request for a container in it with namespaces of its own.
func newBox(t *testing.T, runtime string) *box {
	t.Helper()
	if _, err := os.Stat(busybox); err != nil {
		t.Skipf("busybox-static: %v", err)
	}
	node, err := DetectNode()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "spec") // t.TempDir is long, and users of user namespaces must be able to walk it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	rootfs := filepath.Join(dir, "rootfs")
	for _, d := range []string{"bin", "etc", "tmp", "proc", "sys", "dev", "srv"} {
		if err := os.MkdirAll(filepath.Join(rootfs, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	bin, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(rootfs, "bin/busybox"), string(bin), 0o755)
	for _, a := range strings.Fields("sh cat id pwd env hostname ls mkdir mount grep sleep touch dd mknod unshare tr true head test") {
		if err := os.Symlink("busybox", filepath.Join(rootfs, "bin", a)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(rootfs, "etc/passwd"), "root:x:0:0::/:/bin/sh\nalice:x:1000:1001::/:/bin/sh\n", 0o644)
	write(t, filepath.Join(rootfs, "etc/group"), "root:x:0:\nalice:x:1001:\nbooks:x:50000:bob,alice\n", 0o644)

	in := plain()
	in.Node, in.Rootfs, in.Namespaces, in.Files = node, rootfs, Namespaces{}, Files{}
	in.Handler = in.Handler.WithFeatures(runtimeFeatures(t, runtime), node)
	in.ID = filepath.Base(dir)
	if in.CgroupsPath, err = CgroupsPath("/embedcri-spec-test", in.ID, false); err != nil {
		t.Fatal(err)
	}
	in.Hostname = "boxed"
	in.Container.Linux.Resources.OomScoreAdj = 500
	t.Cleanup(func() { // the parent cgroups, once the last box is gone
		for _, c := range []string{"", "unified", "memory", "cpu", "cpuset", "cpuacct", "devices", "freezer", "blkio", "pids", "systemd", "hugetlb", "net_cls", "net_prio", "perf_event", "rdma", "misc"} {
			_ = unix.Rmdir(filepath.Join(cgroupRoot, c, "embedcri-spec-test"))
		}
	})
	return &box{t: t, runtime: runtime, dir: dir, in: in}
}

// runtimeFeatures asks an OCI runtime what it can do; nil if it does not understand the question.
func runtimeFeatures(t *testing.T, runtime string) *features.Features {
	t.Helper()
	out, err := exec.Command(runtime, "features").Output()
	if err != nil {
		return nil
	}
	f := &features.Features{}
	if err := json.Unmarshal(out, f); err != nil {
		t.Fatal(err)
	}
	return f
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// spec writes the bundle.
func (b *box) spec() *specs.Spec {
	b.t.Helper()
	s, _, err := Container(b.in)
	if err != nil {
		b.t.Fatal(err)
	}
	c, err := json.Marshal(s)
	if err != nil {
		b.t.Fatal(err)
	}
	write(b.t, filepath.Join(b.dir, "config.json"), string(c), 0o600)
	return s
}

// cmd runs the OCI runtime and returns what it and the container wrote.
func (b *box) cmd(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(b.t.Context(), 20*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, b.runtime, append([]string{"--root", filepath.Join(b.dir, "state")}, args...)...)
	out, err := c.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// sh runs a script as the container's process and returns its output.
func (b *box) sh(script string) string {
	b.t.Helper()
	b.in.Container.Command = []string{"/bin/sh", "-c", script + "\ntrue"} // what fails in it is part of what it says
	b.spec()
	out, err := b.cmd("run", "--bundle", b.dir, b.in.ID)
	if err != nil {
		b.t.Errorf("run: %v", err)
	}
	return out
}

// start starts a container that waits, until the test ends.
func (b *box) start() *specs.Spec {
	b.t.Helper()
	b.in.Container.Command = []string{"/bin/sleep", "1000"}
	s := b.spec()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	defer null.Close()
	var msg bytes.Buffer
	c := exec.Command(b.runtime, "--root", filepath.Join(b.dir, "state"), "--log", filepath.Join(b.dir, "log"), "run", "--detach", "--bundle", b.dir, b.in.ID)
	c.Stdin, c.Stdout, c.Stderr = null, null, null // the container keeps them
	if err := c.Run(); err != nil {
		log, _ := os.ReadFile(filepath.Join(b.dir, "log"))
		b.t.Fatalf("run: %v: %s%s", err, msg.String(), log)
	}
	b.t.Cleanup(func() {
		deadline := time.Now().Add(10 * time.Second) // pid 1 may reap only now and then
		for {
			out, err := exec.Command(b.runtime, "--root", filepath.Join(b.dir, "state"), "delete", "--force", b.in.ID).CombinedOutput()
			if err == nil || time.Now().After(deadline) {
				if err != nil {
					b.t.Errorf("delete: %v: %s", err, out)
				}
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	return s
}

// eachRuntime runs a test once per OCI runtime.
func eachRuntime(t *testing.T, test func(*testing.T, *box)) {
	for name, path := range map[string]func(testing.TB) string{"runc": testenv.RuncPath, "crun": testenv.CrunPath} {
		t.Run(name, func(t *testing.T) {
			testenv.Require(t, testenv.Root)
			test(t, newBox(t, path(t)))
		})
	}
}

// equalLines compares output with wanted lines.
func equalLines(t *testing.T, got string, want ...string) {
	t.Helper()
	if g := strings.Split(got, "\n"); !slices.Equal(g, want) {
		t.Errorf("container says\n\t%s\nwant\n\t%s", strings.Join(g, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// capMask is a set of capabilities as /proc/<pid>/status writes it.
func capMask(names []string) string {
	var m uint64
	for i, n := range cap.Known() {
		if slices.Contains(names, n) {
			m |= 1 << i
		}
	}
	return fmt.Sprintf("%016x", m)
}
