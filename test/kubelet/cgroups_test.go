// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/embedcri/embedcri/internal/cgroup"
	"github.com/embedcri/embedcri/internal/testenv"
)

// hierarchies are where cgroups are mounted: the unified one, or one per v1 controller and the v2 one beside them.
func hierarchies(t *testing.T) []string {
	if cgroup.Unified() {
		return []string{cgroup.Root}
	}
	var dirs []string
	for _, m := range mounts(cgroup.Root) {
		if m != cgroup.Root {
			dirs = append(dirs, m)
		}
	}
	if len(dirs) == 0 {
		t.Fatal("no cgroup hierarchy is mounted")
	}
	return dirs
}

// makeCgroups makes the cgroup that the kubelet is confined to; it insists on finding it in every hierarchy.
func makeCgroups(t *testing.T, path string) {
	if testenv.CgroupDriver() == "systemd" {
		if out, err := exec.Command("systemctl", "start", filepath.Base(path)).CombinedOutput(); err != nil {
			t.Fatalf("start %s: %v: %s", path, err, out)
		}
		return
	}
	for _, h := range hierarchies(t) {
		if err := os.MkdirAll(h+path, 0o755); err != nil {
			t.Fatal(err)
		}
		// On v1 a new cpuset is empty, and nothing can run in it.
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			b, err := os.ReadFile(filepath.Join(h, f))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(h+path, f), b, 0)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// removeCgroups removes what the kubelet has made below path, from the leaves up.
func removeCgroups(t *testing.T, path string) {
	if testenv.CgroupDriver() == "systemd" {
		return // the node's slice takes them along
	}
	for _, h := range hierarchies(t) {
		var dirs []string
		_ = filepath.WalkDir(h+path, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, p)
			}
			return nil
		})
		for _, d := range slices.Backward(dirs) {
			if err := os.Remove(d); err != nil {
				t.Errorf("remove cgroup: %v", err)
			}
		}
	}
}

// mounts lists the mount points at or below dir, the topmost last mounted first.
func mounts(dir string) []string {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var ms []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && (f[4] == dir || strings.HasPrefix(f[4], dir+"/")) {
			ms = append(ms, f[4])
		}
	}
	slices.Reverse(ms)
	return ms
}
