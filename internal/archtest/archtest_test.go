// SPDX-License-Identifier: Apache-2.0

// Package archtest holds tests about the source tree itself: which package may import which, and that each says what it is for.
package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/embedcri/embedcri/"

// layers are the packages from the bottom up. A package may import those of lower layers, never its own or a higher one. Packages
// below a listed one belong to it. internal packages are leaves: they import only each other, downwards by this list's order.
var layers = [][]string{
	{"internal/boot", "internal/failpoint"},
	{"internal/atomicfile", "internal/cgroup", "internal/cleanup", "internal/ctxlock", "internal/mount",
		"internal/namespace", "internal/orphan", "internal/pidfd", "internal/rootfsfile", "internal/testenv"},
	{"internal/testregistry", "internal/testnode"},
	{"pkg/exitbpf", "pkg/ioattach", "pkg/store", "pkg/config"},
	{"pkg/task", "pkg/network", "pkg/image", "pkg/stats", "pkg/spec"},
	{"pkg/sandbox"},
	{"pkg/cri", "pkg/admin", "pkg/nri"},
	{"cmd/embedcri", "cmd/embedcri-pod-init", "cmd/embedcri-keeper"},
}

// only says who alone may import what directly; test files are free to.
var only = map[string][]string{
	"github.com/cilium/ebpf":                   {"pkg/exitbpf"},
	"github.com/containerd/go-runc":            {"pkg/task/internal/runc"},
	"google.golang.org/grpc":                   {"pkg/cri", "cmd/embedcri"},
	"github.com/containernetworking/cni":       {"pkg/network"},
	"github.com/containerd/containerd/v2/core": {"pkg/image"},
	"github.com/opencontainers/runc":           {},
	"github.com/google/go-containerregistry":   {"internal/testregistry", "internal/testnode"},
	"k8s.io/cri-streaming":                     {"pkg/cri"},
}

// testOnly packages must not reach a product binary.
var testOnly = []string{"internal/testenv", "internal/testnode", "internal/testregistry", "internal/archtest"}

type pkg struct {
	ImportPath string
	Name       string
	Doc        string
	Imports    []string
	GoFiles    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Name,Doc,Imports,GoFiles", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var ps []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return ps
		} else if err != nil {
			t.Fatal(err)
		}
		p.ImportPath = strings.TrimPrefix(p.ImportPath, module)
		ps = append(ps, p)
	}
}

// layer returns the layer of a package and the listed package it belongs to; -1 for packages outside of the layers (tests, hack).
func layer(path string) (int, string) {
	for i, l := range layers {
		for _, p := range l {
			if within(path, p) {
				return i, p
			}
		}
	}
	return -1, path
}

func within(path, parent string) bool { return path == parent || strings.HasPrefix(path, parent+"/") }

func TestImportsPointDown(t *testing.T) {
	for _, p := range packages(t) {
		from, owner := layer(p.ImportPath)
		if from < 0 {
			if !within(p.ImportPath, "test") && !within(p.ImportPath, "hack") && !within(p.ImportPath, "internal/archtest") {
				t.Errorf("%s is in no layer: add it to the list", p.ImportPath)
			}
			continue
		}
		for _, imp := range p.Imports {
			path, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			to, target := layer(path)
			if target == owner || to >= 0 && to < from {
				continue
			}
			t.Errorf("%s imports %s, which is not below it", p.ImportPath, path)
		}
		if owner == "pkg/cri" || strings.HasPrefix(owner, "cmd/") || strings.HasPrefix(owner, "pkg/") {
			for _, imp := range p.Imports {
				if slices.Contains(testOnly, strings.TrimPrefix(imp, module)) && !strings.HasSuffix(p.ImportPath, "test") {
					t.Errorf("%s imports %s, which is for tests", p.ImportPath, imp)
				}
			}
		}
	}
}

func TestOneOwnerForEachLibrary(t *testing.T) {
	for _, p := range packages(t) {
		if from, _ := layer(p.ImportPath); from < 0 {
			continue
		}
		for _, imp := range p.Imports {
			for lib, owners := range only {
				if !within(imp, lib) {
					continue
				}
				if !slices.ContainsFunc(owners, func(o string) bool { return within(p.ImportPath, o) }) {
					t.Errorf("%s imports %s; only %v may", p.ImportPath, imp, owners)
				}
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && len(p.Doc) < 20 {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}
