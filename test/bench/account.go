// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// account puts the daemon into a cgroup of its own, so that the processor time of all it starts is counted, the OCI runtime and CNI
// plug-ins as well as shims. Containers are elsewhere. It is the figure that a busy machine disturbs least.
func (d *daemon) account() error {
	dir := d.accountDir()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(d.cmd.Process.Pid)), 0); err != nil {
		return fmt.Errorf("account for %s: %w", d.name, err)
	}
	return nil
}

// accountDir is that cgroup's directory: v2's, or that of v1's cpuacct.
func (d *daemon) accountDir() string {
	for _, root := range []string{"/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup/cpu,cpuacct"} {
		if _, err := os.Stat(filepath.Join(root, "cpuacct.usage")); err == nil {
			return filepath.Join(root, d.parent, "runtime")
		}
	}
	return filepath.Join("/sys/fs/cgroup", d.parent, "runtime")
}

// cpu is the processor time in ms that the daemon and what it has started have taken so far; 0 for one that the bench has not started.
func (d *daemon) cpu() float64 {
	if d.cmd == nil {
		return 0
	}
	dir := d.accountDir()
	if b, err := os.ReadFile(filepath.Join(dir, "cpuacct.usage")); err == nil {
		ns, _ := strconv.ParseFloat(strings.TrimSpace(string(b)), 64)
		return ns / 1e6
	}
	b, _ := os.ReadFile(filepath.Join(dir, "cpu.stat"))
	for line := range strings.Lines(string(b)) {
		if us, ok := strings.CutPrefix(line, "usage_usec "); ok {
			n, _ := strconv.ParseFloat(strings.TrimSpace(us), 64)
			return n / 1e3
		}
	}
	return 0
}
