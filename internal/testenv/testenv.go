// SPDX-License-Identifier: Apache-2.0

// Package testenv tells a test what its machine can do, and makes a missing ability either a skip with the reason or, where
// EMBEDCRI_REQUIRE names it (CI does), a failure: a skip that nobody sees is a test that does not exist.
package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Names of the abilities that Require knows.
const (
	Root = "root" // effective uid 0
	BPF  = "bpf"  // kernel type information for the exit tracer, and root
	RunC = "runc" // an OCI runtime at or above the security floor
	CNI  = "cni"  // the reference CNI plug-ins
	Crun = "crun" // a second OCI runtime
)

// Require skips the test unless every named ability is there. With EMBEDCRI_REQUIRE=root,bpf,… a missing one that is listed
// fails the test instead.
func Require(t testing.TB, abilities ...string) {
	t.Helper()
	for _, a := range abilities {
		if reason := missing(a); reason != "" {
			if required(a) {
				t.Fatalf("EMBEDCRI_REQUIRE lists %q, but %s", a, reason)
			}
			t.Skipf("%s: %s", a, reason)
		}
	}
}

// Has tells whether an ability is there, for tests of which only a part needs it; that part calls Require.
func Has(ability string) bool { return missing(ability) == "" }

// RuncPath returns the OCI runtime to test with: $EMBEDCRI_RUNC, else bin/tools/runc of the checkout, else runc on PATH.
func RuncPath(t testing.TB) string {
	t.Helper()
	Require(t, RunC)
	p, _ := find("EMBEDCRI_RUNC", "runc")
	return p
}

// CrunPath returns the second OCI runtime to test with.
func CrunPath(t testing.TB) string {
	t.Helper()
	Require(t, Crun)
	p, _ := FindCrun()
	return p
}

// FindCrun is CrunPath outside of tests: $EMBEDCRI_CRUN, else crun on PATH, else an error. Where cgroups are v1 with a v2 hierarchy
// beside them that has controllers, which crun refuses, it is a wrapper that hides the latter.
func FindCrun() (string, error) {
	if p := os.Getenv("EMBEDCRI_CRUN"); p != "" {
		return p, unix.Access(p, unix.X_OK)
	}
	p, err := exec.LookPath("crun")
	if err != nil {
		return "", err
	}
	if c, err := os.ReadFile("/sys/fs/cgroup/unified/cgroup.controllers"); err == nil && len(strings.TrimSpace(string(c))) > 0 {
		return filepath.Join(Checkout(), "internal", "testenv", "crun-hybrid.sh"), nil
	}
	return p, nil
}

// CNIBin returns the directory of the CNI plug-ins: $EMBEDCRI_CNI_BIN, else bin/tools/cni of the checkout, else /opt/cni/bin.
func CNIBin(t testing.TB) string {
	t.Helper()
	Require(t, CNI)
	d, _ := cniDir()
	return d
}

// Tool returns a program of $EMBEDCRI_BIN or the checkout's bin directory (built by make), or fails the test: what the project builds itself is
// never missing for a good reason.
func Tool(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("EMBEDCRI_BIN")
	if dir == "" {
		dir = filepath.Join(Checkout(), "bin")
	}
	p := filepath.Join(dir, name)
	if _, err := os.Stat(p); err != nil {
		t.Fatalf("%s is not built (make build): %v", name, err)
	}
	return p
}

// Checkout returns the root directory of the source tree; $EMBEDCRI_CHECKOUT names it where tests run that were compiled elsewhere.
func Checkout() string {
	if d := os.Getenv("EMBEDCRI_CHECKOUT"); d != "" {
		return d
	}
	dir, err := os.Getwd() // of a test: its package's directory
	for err == nil && dir != "/" {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	return "."
}

func required(ability string) bool {
	for a := range strings.SplitSeq(os.Getenv("EMBEDCRI_REQUIRE"), ",") {
		if strings.TrimSpace(a) == ability {
			return true
		}
	}
	return false
}

// missing says why an ability is not there; empty if it is.
func missing(ability string) string {
	switch ability {
	case Root:
		if os.Geteuid() != 0 {
			return "not running as root"
		}
	case BPF:
		if os.Geteuid() != 0 {
			return "not running as root"
		}
		if err := unix.Access("/sys/kernel/btf/vmlinux", unix.R_OK); err != nil {
			return fmt.Sprintf("no kernel BTF: %v", err)
		}
	case RunC:
		if _, err := find("EMBEDCRI_RUNC", "runc"); err != nil {
			return err.Error()
		}
	case Crun:
		if _, err := FindCrun(); err != nil {
			return err.Error()
		}
	case CNI:
		if _, err := cniDir(); err != nil {
			return err.Error()
		}
	default:
		return "unknown ability " + ability
	}
	return ""
}

func find(env, name string) (string, error) {
	if p := os.Getenv(env); p != "" {
		return p, unix.Access(p, unix.X_OK)
	}
	if p := filepath.Join(Checkout(), "bin", "tools", name); unix.Access(p, unix.X_OK) == nil {
		return p, nil
	}
	return exec.LookPath(name)
}

func cniDir() (string, error) {
	dirs := []string{os.Getenv("EMBEDCRI_CNI_BIN"), filepath.Join(Checkout(), "bin", "tools", "cni"), "/opt/cni/bin"}
	for _, d := range dirs {
		if d != "" && unix.Access(filepath.Join(d, "bridge"), unix.X_OK) == nil {
			return d, nil
		}
	}
	return "", fmt.Errorf("no CNI plug-ins in %v (make tools)", dirs)
}
