// SPDX-License-Identifier: Apache-2.0

package failpoint

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestOrders carries out an order of each kind that leaves the process alive.
func TestOrders(t *testing.T) {
	s := PodReady
	order := filepath.Join(t.TempDir(), "order")
	file = order
	defer func() { file = "" }()
	write := func(text string) {
		t.Helper()
		_ = os.Remove(order + ".hit")
		if err := os.WriteFile(order, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hit := func() bool { _, err := os.Stat(order + ".hit"); return err == nil }
	for _, c := range []struct {
		order       string
		made, fails bool
		hit         bool
	}{
		{"pod recorded as ready before error", false, true, true},
		{"pod recorded as ready after error", true, true, true},
		{"pod recorded as stopping before error", true, false, false},
		{"nonsense", true, false, false},
	} {
		write(c.order)
		made := false
		err := s.Do(func() error { made = true; return nil })
		if made != c.made || errors.Is(err, ErrInjected) != c.fails || hit() != c.hit {
			t.Errorf("%s: made %v, error %v, hit %v", c.order, made, err, hit())
		}
		if err := s.Do(func() error { return nil }); err != nil {
			t.Errorf("%s: carried out twice: %v", c.order, err)
		}
	}
	write("pod recorded as ready before panic")
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		_ = s.Do(func() error { return nil })
	}()
}

// TestEveryStepIsMade looks for steps that no code makes: their rows in the crash table could not mean anything.
func TestEveryStepIsMade(t *testing.T) {
	list, err := os.ReadFile("steps.go")
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	err = filepath.WalkDir("../..", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		source.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`(?m)^\t(\w+)\s+= step\(`).FindAllSubmatch(list, -1)
	if len(names) != len(steps) {
		t.Fatalf("steps.go has %d lines that define a step, and there are %d", len(names), len(steps))
	}
	for _, n := range names {
		if !regexp.MustCompile(`failpoint\.` + string(n[1]) + `\b`).MatchString(source.String()) {
			t.Errorf("nobody makes the step %s", n[1])
		}
	}
}
