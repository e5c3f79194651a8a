// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/embedcri/embedcri/internal/atomicfile"
)

type sample struct {
	Name string
	N    int
}

func open(t *testing.T) (*Kind, string) {
	t.Helper()
	root := t.TempDir()
	s, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	k, err := s.Kind("pods")
	if err != nil {
		t.Fatal(err)
	}
	return k, root
}

func TestPutGetDelete(t *testing.T) {
	k, root := open(t)
	for _, d := range []atomicfile.Durability{atomicfile.Process, atomicfile.Power} {
		if err := k.Create("a"); err != nil {
			t.Fatal(err)
		}
		if err := k.Put("a", "meta", sample{"x", int(d)}, d); err != nil {
			t.Fatal(err)
		}
		if err := k.Sync("a", "meta"); err != nil {
			t.Fatal(err)
		}
		var got sample
		if err := k.Get("a", "meta", &got); err != nil || got != (sample{"x", int(d)}) {
			t.Fatalf("got %+v, %v", got, err)
		}
	}
	for range 2 { // the second finds nothing, which is success
		if err := k.Delete("a"); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.Get("a", "meta", &sample{}); !errdefs.IsNotFound(err) {
		t.Fatalf("want not found, got %v", err)
	}
	// A crash between the rename and the removal of an earlier delete must not get in the way of the next.
	if err := os.MkdirAll(filepath.Join(root, ".pods-a", "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := k.Create("a"); err != nil {
		t.Fatal(err)
	}
	if err := k.Delete("a"); err != nil {
		t.Fatal(err)
	}
	if ids, err := k.List(); err != nil || len(ids) != 0 {
		t.Fatalf("left: %v, %v", ids, err)
	}
}

func TestDamagedIsNotAbsent(t *testing.T) {
	k, _ := open(t)
	for name, content := range map[string]string{
		"empty":   "",
		"torn":    `{"embedcri":1,"data":{"Name":"x`,
		"foreign": `{"hello":"world"}`,
		"newer":   `{"embedcri":99,"data":{}}`,
		"type":    `{"embedcri":1,"data":[1]}`,
	} {
		if err := k.Create(name); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(k.Dir(name), "meta.json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := k.Get(name, "meta", &sample{}); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: want damaged, got %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(k.Dir(name), "meta.json")); err != nil {
			t.Errorf("%s: the evidence is gone: %v", name, err)
		}
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "version"), []byte("99\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(root); !errdefs.IsFailedPrecondition(err) {
		t.Fatalf("want failed precondition, got %v", err)
	}
}

// TestFormat1StillLoads opens a copy of what this format looks like; it stays when the format moves on.
func TestFormat1StillLoads(t *testing.T) {
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS("testdata/v1")); err != nil {
		t.Fatal(err)
	}
	s, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	k, err := s.Kind("pods")
	if err != nil {
		t.Fatal(err)
	}
	var got sample
	if err := k.Get("0123", "meta", &got); err != nil || got != (sample{"old", 7}) {
		t.Fatalf("got %+v, %v", got, err)
	}
}
