// SPDX-License-Identifier: Apache-2.0

package testnode

import (
	"os/exec"
	"testing"

	"github.com/embedcri/embedcri/internal/testenv"
)

// BuildVersion builds the daemon and its companions as another version, and returns the directory that they are in.
func BuildVersion(t testing.TB, version string) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.Version="+version, "-o", dir+"/", "./cmd/...")
	cmd.Dir = testenv.Checkout()
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build version %s: %v\n%s", version, err, out)
	}
	return dir
}
