// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// etc makes a rootfs with the two files.
func etc(t *testing.T, passwd, group string) string {
	t.Helper()
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"passwd": passwd, "group": group} {
		if content != "" {
			if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return root
}

func asked(s *runtimeapi.LinuxContainerSecurityContext) *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: s}}
}

func TestLookupUser(t *testing.T) {
	root := etc(t, "root:x:0:0:::\nalice:x:1000:1001:::\n", "root:x:0:\nwheel:x:10:root\nbooks:x:50000:alice\n")
	num := func(n int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: n} }
	for _, tt := range []struct {
		name  string
		sc    *runtimeapi.LinuxContainerSecurityContext
		image string
		want  User
		bad   string
	}{
		{name: "nothing", want: User{Groups: []uint32{0, 10}}},
		{name: "image name", image: "alice", want: User{1000, 1001, []uint32{1001, 50000}}},
		{name: "image numbers", image: "7:8", want: User{7, 8, []uint32{8}}},
		{name: "image name and group", image: "alice:wheel", want: User{1000, 10, []uint32{10, 50000}}},
		{name: "image uid and group name", image: "7:wheel", want: User{7, 10, []uint32{10}}},
		{name: "image empty group", image: "alice:", want: User{1000, 1001, []uint32{1001, 50000}}},
		{name: "CRI before image", sc: &runtimeapi.LinuxContainerSecurityContext{RunAsUser: num(7)}, image: "alice:wheel", want: User{7, 0, []uint32{0}}},
		{name: "CRI name", sc: &runtimeapi.LinuxContainerSecurityContext{RunAsUsername: "alice", RunAsGroup: num(5)}, want: User{1000, 5, []uint32{5, 50000}}},
		{name: "strict", sc: &runtimeapi.LinuxContainerSecurityContext{
			RunAsUser: num(1000), RunAsGroup: num(1000), SupplementalGroups: []int64{60000}, SupplementalGroupsPolicy: runtimeapi.SupplementalGroupsPolicy_Strict,
		}, want: User{1000, 1000, []uint32{1000, 60000}}},
		{name: "group alone", sc: &runtimeapi.LinuxContainerSecurityContext{RunAsGroup: num(5)}, bad: "linux.security_context.run_as_group"},
		{name: "group alone with an image user", sc: &runtimeapi.LinuxContainerSecurityContext{RunAsGroup: num(5)}, image: "alice", bad: "run_as_group"},
		{name: "user twice", sc: &runtimeapi.LinuxContainerSecurityContext{RunAsUser: num(5), RunAsUsername: "alice"}, bad: "run_as_username"},
		{name: "unknown name", sc: &runtimeapi.LinuxContainerSecurityContext{RunAsUsername: "mallory"}, bad: "mallory"},
		{name: "number for a name", sc: &runtimeapi.LinuxContainerSecurityContext{RunAsUsername: "1000"}, bad: "1000"},
		{name: "newline", sc: &runtimeapi.LinuxContainerSecurityContext{RunAsUsername: "alice\nroot"}, bad: "run_as_username"},
		{name: "image newline", image: "alice\nroot", bad: "image"},
		{name: "image uid too large", image: "4294967296", bad: "uid"},
		{name: "image gid too large", image: "0:2147483648", bad: "gid"},
		{name: "image group only", image: ":wheel", bad: "user name"},
		{name: "negative", sc: &runtimeapi.LinuxContainerSecurityContext{RunAsUser: num(-1)}, bad: "run_as_user"},
		{name: "wraps to root", sc: &runtimeapi.LinuxContainerSecurityContext{RunAsUser: num(1 << 32)}, bad: "run_as_user"},
		{name: "gid too large", sc: &runtimeapi.LinuxContainerSecurityContext{RunAsUser: num(1), RunAsGroup: num(1 << 31)}, bad: "run_as_group"},
		{name: "supplemental too large", sc: &runtimeapi.LinuxContainerSecurityContext{SupplementalGroups: []int64{1, 1 << 40}}, bad: "supplemental_groups[1]"},
		{name: "policy", sc: &runtimeapi.LinuxContainerSecurityContext{SupplementalGroupsPolicy: 9}, bad: "supplemental_groups_policy"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := LookupUser(root, asked(tt.sc), tt.image)
			if tt.bad != "" {
				if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tt.bad) {
					t.Errorf("got %+v, %v; want an error about %s", got, err, tt.bad)
				}
				return
			}
			if err != nil || got.UID != tt.want.UID || got.GID != tt.want.GID || !slices.Equal(got.Groups, tt.want.Groups) {
				t.Errorf("got %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}

// TestHostileImages: whatever an image has at /etc/passwd and /etc/group, the answer comes soon and from inside the image.
func TestHostileImages(t *testing.T) {
	for name, prepare := range map[string]func(root string) error{
		"2 GiB of nothing": func(root string) error {
			p := filepath.Join(root, "etc/passwd")
			if err := os.WriteFile(p, nil, 0o644); err != nil {
				return err
			}
			return os.Truncate(p, 2<<30)
		},
		"passwd is a fifo":      func(root string) error { return unix.Mkfifo(filepath.Join(root, "etc/passwd"), 0o644) },
		"group is a fifo":       func(root string) error { return unix.Mkfifo(filepath.Join(root, "etc/group"), 0o644) },
		"passwd is a directory": func(root string) error { return os.Mkdir(filepath.Join(root, "etc/passwd"), 0o755) },
		"link to the host": func(root string) error {
			return os.Symlink("/../../../../../../etc/passwd", filepath.Join(root, "etc/passwd"))
		},
		"link to itself":    func(root string) error { return os.Symlink("passwd", filepath.Join(root, "etc/passwd")) },
		"etc is the host's": func(root string) error { return os.Symlink("/etc", filepath.Join(root, "etc")) },
		"a line without end": func(root string) error {
			return os.WriteFile(filepath.Join(root, "etc/passwd"), make([]byte, 1<<20), 0o644)
		},
		"link through proc self": func(root string) error {
			return os.Symlink("/proc/self/root/etc/passwd", filepath.Join(root, "etc/passwd"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			passwd, group := "", ""
			if strings.HasPrefix(name, "group") {
				passwd = "root:x:0:0:::\n"
			}
			root := etc(t, passwd, group)
			if strings.HasPrefix(name, "etc") {
				if err := os.Remove(filepath.Join(root, "etc")); err != nil {
					t.Fatal(err)
				}
			}
			if err := prepare(root); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			u, err := LookupUser(root, asked(nil), "root") // root is in the host's files, so finding it means an escape
			if err == nil {
				t.Errorf("found %+v", u)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}
