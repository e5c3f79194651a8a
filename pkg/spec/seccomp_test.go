// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestSeccompDefault is not a golden file: the profile differs by machine and kernel. It must be made after the
// capabilities are settled, because it allows what they allow. TestDefaultSeccompSame holds it to containerd's.
func TestSeccompDefault(t *testing.T) {
	in := plain()
	sc(&in).Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	allows := func(in Input, call string) bool {
		t.Helper()
		s, _, err := Container(in)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(s.Linux.Seccomp, defaultSeccomp(s, in.Node)) {
			t.Error("not the default profile")
		}
		return slices.ContainsFunc(s.Linux.Seccomp.Syscalls, func(c specs.LinuxSyscall) bool {
			return c.Action == specs.ActAllow && len(c.Args) == 0 && slices.Contains(c.Names, call)
		})
	}
	if allows(in, "settimeofday") {
		t.Error("settimeofday is allowed without CAP_SYS_TIME")
	}
	sc(&in).Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYS_TIME"}}
	if !allows(in, "settimeofday") {
		t.Error("settimeofday is not allowed with CAP_SYS_TIME")
	}
}

func TestSeccompProfile(t *testing.T) {
	def := &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	for _, tt := range []struct {
		name  string
		sc    *runtimeapi.LinuxContainerSecurityContext
		unset *runtimeapi.SecurityProfile
		want  string
	}{
		{"nothing", nil, nil, "Unconfined"},
		{"nothing, node default", nil, def, "RuntimeDefault"},
		{"field", &runtimeapi.LinuxContainerSecurityContext{Seccomp: def}, nil, "RuntimeDefault"},
		{"field before path", &runtimeapi.LinuxContainerSecurityContext{Seccomp: def, SeccompProfilePath: "unconfined"}, nil, "RuntimeDefault"},
		{"path", &runtimeapi.LinuxContainerSecurityContext{SeccompProfilePath: "runtime/default"}, nil, "RuntimeDefault"},
		{"older path", &runtimeapi.LinuxContainerSecurityContext{SeccompProfilePath: "docker/default"}, nil, "RuntimeDefault"},
		{"path unconfined beats node default", &runtimeapi.LinuxContainerSecurityContext{SeccompProfilePath: "unconfined"}, def, "Unconfined"},
		{"localhost path", &runtimeapi.LinuxContainerSecurityContext{SeccompProfilePath: "localhost//a/../b"}, nil, "Localhost /b"},
		{"privileged", &runtimeapi.LinuxContainerSecurityContext{Seccomp: def, Privileged: true}, nil, "Unconfined"},
	} {
		p, err := SeccompProfile(tt.sc, Handler{UnsetSeccomp: tt.unset})
		if got := strings.TrimSpace(p.GetProfileType().String() + " " + p.GetLocalhostRef()); err != nil || got != tt.want {
			t.Errorf("%s: %q, %v, want %q", tt.name, got, err, tt.want)
		}
	}
}

func TestParseSeccomp(t *testing.T) {
	for _, bad := range []string{
		``, `null`, `{}`, `[]`, `{"defaultAction":"SCMP_ACT_MAYBE"}`,
		`{"defaultAction":"SCMP_ACT_ALLOW"}{}`, `{"defaultAction":"SCMP_ACT_ALLOW"} x`,
		`{"defaultAction":"SCMP_ACT_ALLOW","syscals":[]}`, // misspelt
		`{"defaultAction":"SCMP_ACT_ALLOW","archMap":[]}`, // docker's superset
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":[],"action":"SCMP_ACT_ERRNO"}]}`,
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":[""],"action":"SCMP_ACT_ERRNO"}]}`,
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["x"],"action":""}]}`,
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["x"],"action":"SCMP_ACT_ERRNO","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}`,
		`{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"rel"}`,
		strings.Repeat("[", 100_000),
		`{"defaultAction":"` + strings.Repeat("x", MaxSeccompProfile) + `"}`,
	} {
		if p, err := ParseSeccomp([]byte(bad)); !errdefs.IsInvalidArgument(err) || p != nil {
			t.Errorf("%.80s: %v", bad, err)
		}
	}
}

func FuzzParseSeccomp(f *testing.F) {
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}`))
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86"],"flags":["SECCOMP_FILTER_FLAG_LOG"]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseSeccomp(b)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Fatalf("of the wrong class: %v", err)
			}
			return
		}
		again, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		q, err := ParseSeccomp(again)
		if err != nil || p.DefaultAction != q.DefaultAction || len(p.Syscalls) != len(q.Syscalls) {
			t.Fatalf("%s does not parse again: %v", again, err)
		}
	})
}

func TestReadSeccomp(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	for name, prepare := range map[string]func(p string) error{
		"good":  func(p string) error { return os.WriteFile(p, []byte("{}"), 0o600) },
		"link":  func(p string) error { return os.Symlink(good, p) },
		"fifo":  func(p string) error { return unix.Mkfifo(p, 0o600) },
		"dir":   func(p string) error { return os.Mkdir(p, 0o700) },
		"large": func(p string) error { return os.WriteFile(p, make([]byte, MaxSeccompProfile+1), 0o600) },
		"none":  func(string) error { return nil },
	} {
		p := filepath.Join(dir, name)
		if err := prepare(p); err != nil {
			t.Fatal(err)
		}
		b, err := ReadSeccomp(&runtimeapi.LinuxContainerSecurityContext{
			Seccomp: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: p},
		}, Handler{})
		if name == "good" {
			if err != nil || string(b) != "{}" {
				t.Errorf("good: %q, %v", b, err)
			}
		} else if !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if b, err := ReadSeccomp(nil, Handler{}); b != nil || err != nil {
		t.Errorf("nothing asked: %q, %v", b, err)
	}
}
