// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestUsers: who a container runs as.
func TestUsers(t *testing.T) {
	f := start(t)
	id := func(v int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: v} }
	for _, c := range []struct {
		what string
		set  func(*runtimeapi.LinuxContainerSecurityContext)
		want string
	}{
		{"the image's", func(*runtimeapi.LinuxContainerSecurityContext) {}, "0 0 0\n"},
		{"uid", func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUser = id(1234) }, "1234 0 0\n"},
		{"uid and gid", func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUser, s.RunAsGroup = id(1234), id(77) }, "1234 77 77\n"},
		{"name", func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUsername = "root" }, "0 0 0\n"},
		{"groups besides", func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.RunAsUser, s.RunAsGroup, s.SupplementalGroups = id(1234), id(77), []int64{5000, 5001}
		}, "1234 77 77 5000 5001\n"},
	} {
		config := f.sh("echo $(id -u) $(id -g) $(id -G)")
		c.set(config.Linux.SecurityContext)
		want(t, c.what, f.output(config), c.want)
	}
	config := f.sh("true")
	config.Linux.SecurityContext.RunAsGroup = id(77)
	if _, err := f.Runtime.CreateContainer(f.Ctx(), f.pod, config, f.pc); err == nil {
		t.Error("a gid without a user is taken") // "must only be specified when run_as_user or run_as_username is specified"
	}
}

// TestConfinement: what a container may do. (What an exec in it may do is the same: it is asked from there.)
func TestConfinement(t *testing.T) {
	f := start(t)
	run := func(set func(*runtimeapi.LinuxContainerSecurityContext)) string {
		c := f.sh(forever)
		set(c.Linux.SecurityContext)
		return f.Run(f.pod, f.pc, c)
	}
	status := func(ctr, field string) string {
		return strings.TrimSpace(f.inside(ctr, fmt.Sprintf("sed -n 's/^%s:[[:space:]]*//p' /proc/self/status", field)))
	}
	plain := run(func(s *runtimeapi.LinuxContainerSecurityContext) { // what the kubelet sends for procMount: Default
		s.MaskedPaths = []string{"/proc/keys", "/proc/timer_list", "/sys/firmware"}
		s.ReadonlyPaths = []string{"/proc/irq", "/proc/sys"}
	})
	want(t, "default capabilities", status(plain, "CapEff"), "00000000a80425fb") // the set that Docker has begun with
	want(t, "ambient capabilities", status(plain, "CapAmb"), "0000000000000000")
	want(t, "no_new_privs", status(plain, "NoNewPrivs"), "0")
	want(t, "writable root", f.inside(plain, "touch /x && echo yes"), "yes\n")
	want(t, "masked paths", f.inside(plain, "cat /proc/keys /proc/timer_list | wc -c; ls /sys/firmware | wc -l"), "0\n0\n")
	want(t, "read-only paths", f.inside(plain, "for p in /proc/sys/kernel/domainname /proc/irq/default_smp_affinity /sys/kernel/mm/x; do echo 1 > $p 2>/dev/null || echo no; done"), "no\nno\nno\n")

	tight := run(func(s *runtimeapi.LinuxContainerSecurityContext) {
		s.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_RAW"}}
		s.NoNewPrivs, s.ReadonlyRootfs = true, true
		s.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
		s.MaskedPaths, s.ReadonlyPaths = []string{"/etc/passwd"}, []string{"/tmp"}
	})
	want(t, "capabilities", status(tight, "CapEff"), "0000000000002000")
	want(t, "bounding set", status(tight, "CapBnd"), "0000000000002000")
	want(t, "no_new_privs", status(tight, "NoNewPrivs"), "1")
	want(t, "seccomp", status(tight, "Seccomp"), "2")
	want(t, "read-only root", f.inside(tight, "touch /x 2>/dev/null || echo no"), "no\n")
	want(t, "masked path asked for", f.inside(tight, "wc -c < /etc/passwd"), "0\n")
	want(t, "read-only path asked for", f.inside(tight, "touch /tmp/x 2>/dev/null || echo no"), "no\n")

	f.pc = f.HostPodConfig()
	f.pc.Linux.SecurityContext.Privileged = true
	f.pod = f.RunPod(f.pc)
	privileged := run(func(s *runtimeapi.LinuxContainerSecurityContext) { s.Privileged = true })
	host := strings.TrimSpace(f.inside(privileged, "cat /proc/sys/kernel/cap_last_cap"))
	want(t, "seccomp", status(privileged, "Seccomp"), "0")
	if caps := status(privileged, "CapEff"); strings.Count(caps, "f") < 9 {
		t.Errorf("capabilities %s of a privileged container (the last is %s)", caps, host)
	}
	want(t, "writable /sys", f.inside(privileged, "grep -c ' /sys sysfs rw' /proc/mounts"), "1\n")
	want(t, "devices", f.inside(privileged, "test -c /dev/kmsg && echo yes"), "yes\n")
}
