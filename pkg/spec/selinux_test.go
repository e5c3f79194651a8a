// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"os"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestSELinuxOptions(t *testing.T) {
	got, err := SELinuxOptions(&runtimeapi.SELinuxOption{User: "system_u", Type: "svirt_t", Level: "s0-s15:c0.c1023,c5"})
	if want := []string{"user:system_u", "type:svirt_t", "level:s0-s15:c0.c1023,c5"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := SELinuxOptions(nil); got != nil || err != nil {
		t.Errorf("none: %q, %v", got, err)
	}
}

// FuzzSELinuxOptions: whatever passes must not be able to forge a further part of a label, or a mount option.
func FuzzSELinuxOptions(f *testing.F) {
	f.Add("system_u", "system_r", "container_t", "s0:c1,c2")
	f.Add("a:b", "", "t\nx", "s0:c1,c2\"")
	f.Add("", "", "", "s0-s15:c0.c1023")
	f.Fuzz(func(t *testing.T, user, role, kind, level string) {
		opts, err := SELinuxOptions(&runtimeapi.SELinuxOption{User: user, Role: role, Type: kind, Level: level})
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("class of %v", err)
			}
			return
		}
		for _, o := range opts {
			for _, r := range o {
				if r <= ' ' || r == '"' || r == '\\' || r > '~' {
					t.Errorf("%q passed", o)
				}
			}
		}
	})
}

func TestLabelOptions(t *testing.T) {
	const pod = "system_u:system_r:container_t:s0:c1,c2"
	for _, tt := range []struct {
		own  *runtimeapi.SELinuxOption
		pod  string
		want []string
	}{
		{nil, "", nil},
		{&runtimeapi.SELinuxOption{Type: "spc_t"}, "", []string{"type:spc_t"}},
		{nil, pod, []string{"user:system_u", "role:system_r", "type:container_t", "level:s0:c1,c2"}},
		{&runtimeapi.SELinuxOption{Type: "spc_t"}, pod, []string{"user:system_u", "role:system_r", "type:container_t", "level:s0:c1,c2", "type:spc_t"}},
	} {
		if got, err := labelOptions(tt.own, tt.pod); err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%v over %q: %q, %v; want %q", tt.own, tt.pod, got, err, tt.want)
		}
	}
}

// TestLevels follows one level from hand to hand: it must be free for others only when the last has let go of it.
func TestLevels(t *testing.T) {
	reserved := map[string]int{}
	l := NewLevels()
	l.init = func([]string) (string, string, error) {
		reserved["s0:c1,c2"]++
		return "u:r:container_t:s0:c1,c2", "u:object_r:container_file_t:s0:c1,c2", nil
	}
	l.reserve = func(label string) { reserved[levelOf(label)]++ }
	l.release = func(label string) { delete(reserved, levelOf(label)) }

	pod, err := l.Init(nil, Labels{})
	if err != nil {
		t.Fatal(err)
	}
	ctr, err := l.Init(nil, pod)
	if err != nil || ctr != pod {
		t.Fatalf("container %v, %v", ctr, err)
	}
	l.Release(ctr)
	if len(reserved) != 1 {
		t.Error("the container has given its pod's level away")
	}
	l.Release(pod)
	if len(reserved) != 0 || len(l.users) != 0 {
		t.Errorf("still reserved: %v, used: %v", reserved, l.users)
	}
	l.Reserve(pod) // as after a restart
	l.Reserve(ctr)
	l.Release(pod)
	if len(reserved) != 1 {
		t.Error("the pod has given its container's level away")
	}
	l.Release(ctr)
	if len(reserved) != 0 {
		t.Error("still reserved")
	}
}

// TestLevelsOfThisNode asks the kernel: labels, or nothing at all where SELinux is off.
func TestLevelsOfThisNode(t *testing.T) {
	_, err := os.Stat("/sys/fs/selinux/enforce")
	on := err == nil
	l := NewLevels()
	labels, err := l.Init(nil, Labels{})
	if err != nil || on != (labels.Process != "") || on != (len(l.users) == 1) {
		t.Errorf("labels %+v, %v, users %v; SELinux %v", labels, err, l.users, on)
	}
	l.Release(labels)
	dir := t.TempDir()
	if err := Relabel(dir, labels.Mount, false); err != nil {
		t.Error(err)
	}
	if got := MountData("mode=1777", labels.Mount); (got == "mode=1777") == on {
		t.Errorf("mount data %q; SELinux %v", got, on)
	}
}
