// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestResolvConf(t *testing.T) {
	if got := resolvConf(&runtimeapi.DNSConfig{}); got != nil {
		t.Errorf("no configuration: %q, want the node's", got)
	}
	got := string(resolvConf(&runtimeapi.DNSConfig{
		Servers: []string{"10.0.0.10", "fd00::a"}, Searches: []string{"svc.local", "local"}, Options: []string{"ndots:5"},
	}))
	if want := "search svc.local local\nnameserver 10.0.0.10\nnameserver fd00::a\noptions ndots:5\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestHosts(t *testing.T) {
	got := string(hosts("web-0", []string{"10.1.2.3", "fd00::3"}))
	for _, want := range []string{"127.0.0.1\tlocalhost\n", "10.1.2.3\tweb-0\n", "fd00::3\tweb-0\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
}

func TestLogPath(t *testing.T) {
	for _, c := range []struct{ dir, path, want string }{
		{"/var/log/pods/x", "c/0.log", "/var/log/pods/x/c/0.log"},
		{"", "c.log", ""},
		{"/var/log", "", ""},
	} {
		if got, err := logPath(c.dir, c.path); err != nil || got != c.want {
			t.Errorf("%q + %q: %q, %v", c.dir, c.path, got, err)
		}
	}
	for _, path := range []string{"../x.log", "a/../../x.log", "/etc/x.log"} {
		if _, err := logPath("/var/log", path); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", path, err)
		}
	}
	if _, err := logPath("relative", "x.log"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("relative directory: %v", err)
	}
}

func TestCRISignal(t *testing.T) {
	for sig, want := range map[unix.Signal]runtimeapi.Signal{
		unix.SIGTERM:        runtimeapi.Signal_SIGNAL_SIGTERM,
		unix.SIGCHLD:        runtimeapi.Signal_SIGNAL_SIGCHLD,
		unix.Signal(34):     runtimeapi.Signal_SIGNAL_SIGRTMIN,
		unix.Signal(34 + 3): runtimeapi.Signal_SIGNAL_SIGRTMINPLUS3,
		unix.Signal(77):     runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT,
	} {
		if got := criSignal(sig); got != want {
			t.Errorf("%v: %v, want %v", sig, got, want)
		}
	}
}

func TestFindByPrefix(t *testing.T) {
	set := map[string]int{"abc1": 1, "abd2": 2}
	for id, want := range map[string]int{"abc1": 1, "abc": 1, "abd": 2} {
		if got, err := find(set, "pod", id); got != want || err != nil {
			t.Errorf("%s: %d, %v", id, got, err)
		}
	}
	if _, err := find(set, "pod", "ab"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("ambiguous: %v", err)
	}
	if _, err := find(set, "pod", "ff"); !errdefs.IsNotFound(err) {
		t.Errorf("absent: %v", err)
	}
	for _, id := range []string{"", "../x", "/etc", "ABC", strings.Repeat("a", 65)} {
		if _, err := find(set, "pod", id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", id, err)
		}
	}
}
