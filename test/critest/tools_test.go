// SPDX-License-Identifier: Apache-2.0

package critest

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// findCritest returns critest as $CRITEST or PATH names it. It does not come with the project: without it the test is skipped, or
// fails where EMBEDCRI_REQUIRE lists critest.
func findCritest(t *testing.T) string {
	t.Helper()
	p, err := exec.LookPath(cmp.Or(os.Getenv("CRITEST"), "critest"))
	if err == nil {
		p, err = filepath.Abs(p)
	}
	if err != nil {
		unable(t, fmt.Errorf("neither on PATH nor named by CRITEST: %w", err))
	}
	return p
}

var toolsTo = flag.String("tools", "", "`directory` to put busybox and ginkgo in, for a machine without a compiler and a network")

func TestTools(t *testing.T) {
	if *toolsTo == "" {
		t.Skip("only with -tools")
	}
	busybox, err := plainBusybox()
	if err != nil {
		t.Fatal(err)
	}
	for name, from := range map[string]string{"busybox": busybox, "ginkgo": findGinkgo(t)} {
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(*toolsTo, name), b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// unable skips the test, or fails it where what it needs is required.
func unable(t *testing.T, reason error) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("EMBEDCRI_REQUIRE"), ","), "critest") {
		t.Fatalf("EMBEDCRI_REQUIRE lists critest, but %v", reason)
	}
	t.Skip(reason)
}

// ginkgo is the module of the program that runs several processes of critest, in the version that cri-tools uses as of v1.36. A test
// binary does not tell what it was built with, and the two talk to each other: GINKGO names another one if need be.
const ginkgo = "github.com/onsi/ginkgo/v2/ginkgo@v2.32.0"

// findGinkgo returns $GINKGO, else a copy that is built once.
func findGinkgo(t *testing.T) string {
	t.Helper()
	if p := os.Getenv("GINKGO"); p != "" {
		return p
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	_, version, _ := strings.Cut(ginkgo, "@")
	dir := filepath.Join(cache, "embedcri-test", "ginkgo-"+version)
	p := filepath.Join(dir, "ginkgo")
	if _, err := os.Stat(p); err == nil {
		return p
	}
	cmd := exec.Command("go", "install", ginkgo)
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		unable(t, fmt.Errorf("cannot build ginkgo (GINKGO can name it): %w: %s", err, out))
	}
	return p
}
