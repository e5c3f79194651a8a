// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"path"
	"slices"
)

// defaultMaskedPaths and defaultReadonlyPaths are what the kubelet sends for procMount Default (k8s.io/kubernetes
// pkg/securitycontext/util.go); they serve clients that send no security context at all.
func defaultMaskedPaths() []string {
	return []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
		"/sys/firmware", "/sys/devices/virtual/powercap",
	}
}

func defaultReadonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// paths hides and freezes parts of /proc and /sys. procMount itself does not reach the CRI: the kubelet turns Default into the
// two lists and Unmasked into empty ones, and on the wire an empty list and none are the same. So with a security context the
// lists are taken as they are; without one the client has not thought about it and gets the defaults. A privileged container
// gets neither ("Sensitive paths … are not masked").
func (b *builder) paths() error {
	if b.sc.GetPrivileged() {
		return nil
	}
	masked, readonly := defaultMaskedPaths(), defaultReadonlyPaths()
	if b.sc != nil {
		masked, readonly = slices.Clone(b.sc.GetMaskedPaths()), slices.Clone(b.sc.GetReadonlyPaths())
	}
	if err := checkPaths("linux.security_context.masked_paths", masked); err != nil {
		return err
	}
	if err := checkPaths("linux.security_context.readonly_paths", readonly); err != nil {
		return err
	}
	b.g.Config.Linux.MaskedPaths, b.g.Config.Linux.ReadonlyPaths = masked, readonly
	return nil
}

func checkPaths(field string, paths []string) error {
	for i, p := range paths {
		if !path.IsAbs(p) {
			return invalid(fmt.Sprintf("%s[%d]", field, i), "%q is not absolute", p)
		}
	}
	return nil
}
