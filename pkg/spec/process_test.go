// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestProcessArgs is the table of kubernetes.io/docs/tasks/inject-data-application/define-command-argument-container.
func TestProcessArgs(t *testing.T) {
	for _, tt := range []struct {
		command, args, entrypoint, cmd string
		want                           string
	}{
		{entrypoint: "/ep-1", cmd: "foo bar", want: "/ep-1 foo bar"},
		{command: "/ep-2", entrypoint: "/ep-1", cmd: "foo bar", want: "/ep-2"},
		{args: "zoo boo", entrypoint: "/ep-1", cmd: "foo bar", want: "/ep-1 zoo boo"},
		{command: "/ep-2", args: "zoo boo", entrypoint: "/ep-1", cmd: "foo bar", want: "/ep-2 zoo boo"},
		{cmd: "foo bar", want: "foo bar"},
		{args: "zoo", want: "zoo"},
	} {
		got, err := processArgs(strings.Fields(tt.command), strings.Fields(tt.args), strings.Fields(tt.entrypoint), strings.Fields(tt.cmd))
		if err != nil || strings.Join(got, " ") != tt.want {
			t.Errorf("%+v: got %q, %v", tt, got, err)
		}
	}
	if got, err := processArgs(nil, nil, []string{""}, []string{"sh"}); err != nil || !slices.Equal(got, []string{"sh"}) {
		t.Errorf("reset entrypoint: got %q, %v", got, err)
	}
}

func TestWorkingDir(t *testing.T) {
	for _, tt := range []struct{ asked, image, want string }{
		{"", "", "/"}, {"", "/app", "/app"}, {"", "app", "/app"}, {"", "../../x", "/x"}, {"/srv/../a", "/app", "/a"},
	} {
		if got, err := workingDir(tt.asked, tt.image); err != nil || got != tt.want {
			t.Errorf("%+v: got %q, %v", tt, got, err)
		}
	}
}

func TestEnvironment(t *testing.T) {
	in := plain()
	in.Image.Env = []string{"PATH=/bin", "A=1", "broken", "=x", "A=2", "HOSTNAME=image"}
	in.Container.Envs = []*runtimeapi.KeyValue{{Key: "B", Value: []byte("x=y\nz")}, {Key: "A", Value: nil}, {Key: "PATH", Value: []byte("/opt")}}
	in.Container.Tty = true
	s, _, err := Container(in)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"PATH=/opt", "TERM=xterm", "HOSTNAME=image", "A=", "B=x=y\nz"}
	if !slices.Equal(s.Process.Env, want) {
		t.Errorf("got %q, want %q", s.Process.Env, want)
	}
}

// TestManyVariables: 100,000 variables, half of them twice, must not cost quadratic time. The test's own deadline is the judge:
// comparing each with each would take minutes.
func TestManyVariables(t *testing.T) {
	const n = 100_000
	in := plain()
	for i := range n {
		in.Image.Env = append(in.Image.Env, fmt.Sprintf("VARIABLE_OF_THE_IMAGE_%d=%d", i, i))
		if i%2 == 0 {
			in.Container.Envs = append(in.Container.Envs, &runtimeapi.KeyValue{Key: fmt.Sprintf("VARIABLE_OF_THE_IMAGE_%d", i)})
		}
	}
	s, _, err := Container(in)
	if err != nil || len(s.Process.Env) != n+3 { // and PATH, HOSTNAME, LANG
		t.Errorf("%d variables, %v", len(s.Process.Env), err)
	}
	if _, err := ExecProcess(s.Process, []string{"true"}, true); err != nil {
		t.Error(err)
	}
}

// FuzzEnvironment: whatever an image and a client send, each name is in the result once, and can be carried by JSON and execve.
func FuzzEnvironment(f *testing.F) {
	f.Add("A=1\nB\n=C", "A", []byte("2"))
	f.Add("", "", []byte{0})
	f.Add("A==\nA=\xff", "B", []byte("x"))
	f.Fuzz(func(t *testing.T, image, key string, value []byte) {
		in := plain()
		in.Image.Env = strings.Split(image, "\n")
		in.Container.Envs = []*runtimeapi.KeyValue{{Key: key, Value: value}}
		s, _, err := Container(in)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Fatalf("of the wrong class: %v", err)
			}
			return
		}
		seen := map[string]bool{}
		for _, kv := range s.Process.Env {
			k, _, ok := strings.Cut(kv, "=")
			if !ok || k == "" || seen[k] || strings.IndexByte(kv, 0) >= 0 {
				t.Fatalf("bad or double variable %q", kv)
			}
			seen[k] = true
		}
		if !slices.Contains(s.Process.Env, key+"="+string(value)) || !utf8.Valid(value) {
			t.Fatalf("%q=%q is not there, or should not be", key, value)
		}
	})
}

func TestExecProcess(t *testing.T) {
	in := plain()
	in.User = User{UID: 7, GID: 8, Groups: []uint32{8, 9}}
	s, _, err := Container(in)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ExecProcess(s.Process, []string{"ls", "-l"}, true)
	if err != nil {
		t.Fatal(err)
	}
	if !p.Terminal || !slices.Equal(p.Args, []string{"ls", "-l"}) || p.User.UID != 7 || p.Cwd != s.Process.Cwd || !slices.Contains(p.Env, "TERM=xterm") {
		t.Errorf("got %+v", p)
	}
	p.Env[0], p.User.AdditionalGids[0] = "changed=", 77
	p.Capabilities.Bounding = nil
	if s.Process.Terminal || s.Process.Args[0] != "/bin/server" || s.Process.Env[0] == "changed=" || s.Process.User.AdditionalGids[0] == 77 ||
		s.Process.Capabilities.Bounding == nil || slices.Contains(s.Process.Env, "TERM=xterm") {
		t.Errorf("the container's process changed: %+v", s.Process)
	}
	for name, cmd := range map[string][]string{"none": nil, "empty": {""}, "NUL": {"a", "\x00"}} {
		if _, err := ExecProcess(s.Process, cmd, false); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s command: %v", name, err)
		}
	}
	if _, err := ExecProcess(nil, []string{"x"}, false); err == nil {
		t.Error("no base process is no error")
	}
	if p, err := ExecProcess(&specs.Process{Env: []string{"TERM=vt100"}}, []string{"x"}, true); err != nil || len(p.Env) != 1 {
		t.Errorf("TERM of the container: %v, %v", p, err)
	}
}
