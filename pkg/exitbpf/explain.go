// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// explain adds what a person can do about it.
func explain(err error) error {
	var missing []string
	if _, e := os.Stat("/sys/kernel/btf/vmlinux"); e != nil {
		missing = append(missing, "kernel has no BTF (CONFIG_DEBUG_INFO_BTF)")
	}
	if b, e := os.ReadFile("/sys/kernel/security/lockdown"); e == nil && strings.Contains(string(b), "[confidentiality]") {
		missing = append(missing, "kernel is locked down (confidentiality)")
	}
	missing = append(missing, missingCaps()...)
	if len(missing) == 0 {
		return err
	}
	return fmt.Errorf("%s: %w", strings.Join(missing, ", "), err)
}

// missingCaps names the capabilities that loading tracing programs (bpf(2)) and
// mounting need and this process lacks. CAP_SYS_ADMIN includes the others.
func missingCaps() []string {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return nil
	}
	has := func(c int) bool { return data[c/32].Effective&(1<<(c%32)) != 0 }
	if has(unix.CAP_SYS_ADMIN) {
		return nil
	}
	var missing []string
	for c, name := range map[int]string{unix.CAP_BPF: "CAP_BPF", unix.CAP_PERFMON: "CAP_PERFMON"} {
		if !has(c) {
			missing = append(missing, "no "+name)
		}
	}
	return missing
}
