// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/cgroup"
	"github.com/embedcri/embedcri/pkg/config"
)

// checkCommand says, a line each, what the daemon needs and whether it is there. It fails if something is missing that the daemon
// cannot do without.
func checkCommand(ctx context.Context, c *config.Config, _ []string) error {
	if err := c.Validate(); err != nil {
		return err
	}
	missing := 0
	report := func(needed bool, what string, err error, detail string) {
		mark := "ok  "
		switch {
		case err != nil && needed:
			mark = "FAIL"
			missing++
		case err != nil:
			mark = "warn"
		}
		if err != nil {
			detail = err.Error()
		}
		fmt.Printf("%s  %-18s %s\n", mark, what, detail)
	}
	report(true, "root", rootErr(), "effective uid 0")
	report(false, "kernel BTF", statErr("/sys/kernel/btf/vmlinux"), "exit codes survive the daemon's death")
	report(false, "bpffs", fsErr("/sys/fs/bpf", unix.BPF_FS_MAGIC), "mounted on /sys/fs/bpf")
	report(true, "cgroups", statErr(cgroup.Root), map[bool]string{true: "v2", false: "v1"}[cgroup.Unified()])
	for name, h := range c.Runtime.Handlers {
		path, err := exec.LookPath(h.Path)
		detail := ""
		if err == nil {
			var out []byte
			if out, err = exec.CommandContext(ctx, path, "--version").Output(); err == nil {
				detail = path + ": " + strings.SplitN(string(out), "\n", 2)[0]
			}
		}
		report(true, "runtime "+name, err, detail)
	}
	for _, p := range []string{"bridge", "host-local", "portmap", "loopback"} {
		found := ""
		for _, dir := range c.Network.BinDirs {
			if unix.Access(filepath.Join(dir, p), unix.X_OK) == nil {
				found = filepath.Join(dir, p)
				break
			}
		}
		var err error
		if found == "" {
			err = fmt.Errorf("not in %s", strings.Join(c.Network.BinDirs, ", "))
		}
		report(false, "CNI "+p, err, found)
	}
	for _, p := range []string{"embedcri-keeper", "embedcri-pod-init"} {
		path, err := siblingProgram(p)
		report(true, p, err, path)
	}
	if missing > 0 {
		return fmt.Errorf("%d of what is needed is missing", missing)
	}
	return nil
}

func rootErr() error {
	if os.Geteuid() != 0 {
		return errors.New("has to run as root")
	}
	return nil
}

func statErr(path string) error {
	_, err := os.Stat(path)
	return err
}

func fsErr(path string, magic int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if int64(st.Type) != magic {
		return fmt.Errorf("%s is not of the expected file system; the daemon mounts one of its own", path)
	}
	return nil
}
