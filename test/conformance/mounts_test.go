// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestMounts: what of the host a container sees, and whether it may write there.
func TestMounts(t *testing.T) {
	f := start(t)
	dir := t.TempDir()
	for name, text := range map[string]string{"file": "a file\n", "sub/file": "below\n"} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("sub", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	c := f.sh(forever)
	c.Mounts = []*runtimeapi.Mount{
		{HostPath: dir, ContainerPath: "/data"},
		{HostPath: dir, ContainerPath: "/data/again", Readonly: true}, // after its parent, whatever the order
		{HostPath: filepath.Join(dir, "file"), ContainerPath: "/etc/one-file", Readonly: true},
		{HostPath: filepath.Join(dir, "link"), ContainerPath: "/linked"}, // "If the path is a symlink, … runtimes should follow"
		{HostPath: dir, ContainerPath: "/made/deep/down"},
		{HostPath: filepath.Join(dir, "new"), ContainerPath: "/new"},
	}
	ctr := f.Run(f.pod, f.pc, c)
	want(t, "mounts", f.inside(ctr, "cat /data/file /data/again/file /etc/one-file /linked/file /made/deep/down/sub/file"),
		"a file\na file\na file\nbelow\nbelow\n")
	want(t, "read-only", f.inside(ctr, "touch /data/again/x 2>/dev/null || echo no; echo x 2>/dev/null > /etc/one-file || echo no"), "no\nno\n")
	want(t, "writing", f.inside(ctr, "echo written > /data/back && cat /made/deep/down/back"), "written\n")
	if b, err := os.ReadFile(filepath.Join(dir, "back")); err != nil || string(b) != "written\n" {
		t.Errorf("on the host: %q, %v", b, err)
	}
	if st, err := os.Stat(filepath.Join(dir, "new")); err != nil || !st.IsDir() {
		t.Errorf("a directory that was not there is not made: %v", err)
	}
	status := f.Status(ctr)
	if len(status.Mounts) != len(c.Mounts) {
		t.Fatalf("the status has %d mounts, want %d", len(status.Mounts), len(c.Mounts))
	}
	for i, m := range status.Mounts {
		if m.ContainerPath != c.Mounts[i].ContainerPath || m.HostPath != c.Mounts[i].HostPath || m.Readonly != c.Mounts[i].Readonly {
			t.Errorf("mount %v in the status; asked for %v", m, c.Mounts[i])
		}
	}
}

// TestPropagation: mounts of later reach a container, or the host, only as its mount asks for.
func TestPropagation(t *testing.T) {
	f := start(t)
	dir := t.TempDir()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	for _, flag := range []uintptr{unix.MS_PRIVATE, unix.MS_SHARED} {
		if err := unix.Mount("", dir, "", flag, ""); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"later", "from-inside"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	f.pc = f.HostPodConfig()
	f.pc.Linux.SecurityContext.Privileged = true
	f.pod = f.RunPod(f.pc)
	ctrs := map[runtimeapi.MountPropagation]string{}
	for _, p := range []runtimeapi.MountPropagation{runtimeapi.MountPropagation_PROPAGATION_PRIVATE,
		runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER, runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL} {
		c := f.sh(forever)
		c.Linux.SecurityContext.Privileged = true
		c.Mounts = []*runtimeapi.Mount{{HostPath: dir, ContainerPath: "/m", Propagation: p}}
		ctrs[p] = f.Run(f.pod, f.pc, c)
	}
	if err := unix.Mount("later", filepath.Join(dir, "later"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(dir, "later"), unix.MNT_DETACH) })
	for p, ctr := range ctrs {
		seen := map[bool]string{true: "1\n", false: "0\n"}[p != runtimeapi.MountPropagation_PROPAGATION_PRIVATE]
		want(t, p.String()+": mount of the host", f.inside(ctr, "grep -c ' /m/later tmpfs' /proc/mounts || true"), seen)
		f.inside(ctr, "mount -t tmpfs inside /m/from-inside")
		var on unix.Statfs_t
		if err := unix.Statfs(filepath.Join(dir, "from-inside"), &on); err != nil {
			t.Fatal(err)
		}
		want(t, p.String()+": the container's mount on the host", on.Type == unix.TMPFS_MAGIC, p == runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL)
		f.inside(ctr, "umount /m/from-inside")
	}
}
