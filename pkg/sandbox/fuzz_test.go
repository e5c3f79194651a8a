// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// FuzzLogPath: a log lies below the directory that was given for it.
func FuzzLogPath(f *testing.F) {
	f.Add("/var/log/pods/x", "c/0.log")
	f.Add("/var/log/pods/x", "../y")
	f.Add("relative", "c")
	f.Add("/", "a/../..")
	f.Fuzz(func(t *testing.T, dir, path string) {
		got, err := logPath(dir, path)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("of the wrong class: %v", err)
			}
			return
		}
		if rel, err := filepath.Rel(filepath.Clean(dir), got); got != "" && (err != nil || !filepath.IsLocal(rel)) {
			t.Errorf("%q in %q is %q", path, dir, got)
		}
	})
}

// FuzzSubPath: whatever links an image has, a sub path of it leads to one of its directories or nowhere.
func FuzzSubPath(f *testing.F) {
	f.Add("dir/sub", "/")
	f.Add("link", "/dir")
	f.Add("link/passwd", "/etc")
	f.Add("link", "../../../../etc")
	f.Add("link/link", "link")
	f.Add("../x", ".")
	f.Fuzz(func(t *testing.T, path, target string) {
		root := t.TempDir()
		if err := os.MkdirAll(filepath.Join(root, "dir/sub"), 0o755); err != nil {
			t.Fatal(err)
		}
		if os.Symlink(target, filepath.Join(root, "link")) != nil {
			return // not every string can be the target of a link
		}
		got, err := subPath(root, path)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("of the wrong class: %v", err)
			}
			return
		}
		real, err := filepath.EvalSymlinks(got)
		if err != nil || real != got || got != root && !strings.HasPrefix(got, root+"/") {
			t.Errorf("%q with a link to %q is %q, in truth %q, %v", path, target, got, real, err)
		}
	})
}
