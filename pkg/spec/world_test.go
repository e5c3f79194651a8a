// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Tests of the helpers that look at the machine.

func TestCheckMounts(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	at := func(p string) string { return filepath.Join(dir, p) }
	for _, err := range []error{
		os.Mkdir(at("real"), 0o755), os.Symlink("real", at("link")), os.WriteFile(at("file"), nil, 0o600),
		os.Symlink("loop", at("loop")), os.Symlink("nowhere", at("dangling")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	bind := func(host string) *runtimeapi.Mount {
		return &runtimeapi.Mount{ContainerPath: "/x", HostPath: at(host)}
	}
	got, err := CheckMounts([]*runtimeapi.Mount{
		bind("real"), bind("link"), bind("file"), bind("new/deep"), {ContainerPath: "/i", Image: &runtimeapi.ImageSpec{Image: "x"}},
	})
	want := []string{at("real"), at("real"), at("file"), at("new/deep"), ""}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if st, err := os.Stat(at("new/deep")); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("missing directory: %v, %v", st, err)
	}
	for _, bad := range []string{"file/below", "loop", "dangling"} {
		if _, err := CheckMounts([]*runtimeapi.Mount{bind(bad)}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "mounts[0].host_path") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, err := CheckMounts([]*runtimeapi.Mount{bind("first"), {ContainerPath: "/x", HostPath: "rel"}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("relative path: %v", err)
	}
	if _, err := os.Stat(at("first")); err == nil {
		t.Error("a refused request left a directory behind")
	}
}

func TestCheckPropagation(t *testing.T) {
	const (
		private       = runtimeapi.MountPropagation_PROPAGATION_PRIVATE
		slave         = runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		bidirectional = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
	)
	table := []*mountinfo.Info{
		{Mountpoint: "/", Optional: ""},
		{Mountpoint: "/shared", Optional: "shared:1"},
		{Mountpoint: "/shared/private"},
		{Mountpoint: "/slave", Optional: "master:1"},
		{Mountpoint: "/both", Optional: "shared:3 master:1"},
		{Mountpoint: "/covered", Optional: "shared:4"},
		{Mountpoint: "/covered"},
		{Mountpoint: "/unbindable", Optional: "unbindable"},
	}
	for _, tt := range []struct {
		source string
		p      runtimeapi.MountPropagation
		ok     bool
	}{
		{"/x", private, true}, {"/x", slave, false}, {"/x", bidirectional, false},
		{"/shared", slave, true}, {"/shared/deep/down", bidirectional, true},
		{"/sharedness", bidirectional, false}, {"/shared/private/x", bidirectional, false},
		{"/slave/x", slave, true}, {"/slave/x", bidirectional, false},
		{"/both", bidirectional, true}, {"/covered", bidirectional, false}, {"/unbindable", slave, false},
	} {
		err := checkPropagation("mounts[0].", tt.p, tt.source, table)
		if (err == nil) != tt.ok || err != nil && !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s %v: %v", tt.source, tt.p, err)
		}
	}
	if err := checkPropagation("", slave, "/x", nil); err == nil {
		t.Error("a path on no mount is fine")
	}
}

func TestFindDevices(t *testing.T) {
	dir := t.TempDir()
	sub := filepath.Join(dir, "sub")
	if err := os.MkdirAll(filepath.Join(dir, "pts"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/null", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	find := func(p string) ([]string, error) {
		got, err := FindDevices([]*runtimeapi.Device{{HostPath: p}})
		var out []string
		for _, nodes := range got {
			for _, n := range nodes {
				out = append(out, n.Path+" "+n.Type)
			}
		}
		return out, err
	}
	for _, p := range []string{"/dev/null", filepath.Join(dir, "link")} {
		if got, err := find(p); err != nil || !slices.Equal(got, []string{". c"}) {
			t.Errorf("%s: %q, %v", p, got, err)
		}
	}
	for _, p := range []string{"null", "/dev/none-such", sub, "/etc/hostname"} {
		if got, err := find(p); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "devices[0].host_path") {
			t.Errorf("%s: %q, %v", p, got, err)
		}
	}
	if err := unix.Mknod(filepath.Join(sub, "n"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))); err != nil {
		t.Skipf("mknod: %v", err)
	}
	if err := unix.Mknod(filepath.Join(dir, "pts/0"), unix.S_IFCHR|0o600, int(unix.Mkdev(136, 0))); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, filepath.Join(dir, "sub/up")); err != nil {
		t.Fatal(err)
	}
	if got, err := find(dir); err != nil || !slices.Equal(got, []string{"sub/n c"}) {
		t.Errorf("directory: %q, %v", got, err)
	}
}

func TestHostDevices(t *testing.T) {
	got, err := HostDevices()
	if err != nil {
		t.Fatal(err)
	}
	null := false
	for _, d := range got {
		null = null || d.Path == "/dev/null" && d.Type == "c" && d.Major == 1 && d.Minor == 3
		if d.Path == "/dev/console" || strings.HasPrefix(d.Path, "/dev/pts/") || d.FileMode == nil {
			t.Errorf("%+v", d)
		}
	}
	if !null {
		t.Error("no /dev/null")
	}
}

func TestDetectNode(t *testing.T) {
	n, err := DetectNode()
	if err != nil {
		t.Fatal(err)
	}
	if n.OOMScoreAdjMin < -1000 || n.OOMScoreAdjMin > 1000 || len(n.Devices) == 0 {
		t.Errorf("%+v", n)
	}
	if os.Geteuid() == 0 && !slices.Contains(n.Capabilities, "CAP_CHOWN") {
		t.Errorf("root without capabilities: %v", n.Capabilities)
	}
	if has := slices.Contains(n.Capabilities, "CAP_SYS_RESOURCE"); has != (n.OOMScoreAdjMin == -1000) && n.OOMScoreAdjMin != -1000 {
		t.Logf("CAP_SYS_RESOURCE %v, floor %d: in a user namespace?", has, n.OOMScoreAdjMin)
	}
}

func TestHugepageSize(t *testing.T) {
	for dir, want := range map[string]string{"hugepages-2048kB": "2MB", "hugepages-1048576kB": "1GB", "hugepages-64kB": "64KB", "hugepages-16777216kB": "16GB", "x": "", "hugepages-0kB": ""} {
		if got, ok := hugepageSize(dir); got != want || ok != (want != "") {
			t.Errorf("%s: %q, %v", dir, got, ok)
		}
	}
}
