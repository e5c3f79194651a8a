// SPDX-License-Identifier: Apache-2.0

package atomicfile

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Whoever reads while a file is replaced again and again sees one content or the other, whole, and only the file is left.
func TestWrite(t *testing.T) {
	for _, d := range []Durability{Process, Power} {
		dir := t.TempDir()
		path := filepath.Join(dir, "record")
		contents := [][]byte{bytes.Repeat([]byte("a"), 3000), bytes.Repeat([]byte("b"), 7)}
		if err := Write(path, contents[0], 0o600, d); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				b, err := os.ReadFile(path)
				if err != nil || !bytes.Equal(b, contents[0]) && !bytes.Equal(b, contents[1]) {
					t.Errorf("%d bytes: %.20q, %v", len(b), b, err)
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
		for i := range 100 {
			if err := Write(path, contents[i%2], 0o640, d); err != nil {
				t.Fatal(err)
			}
		}
		close(done)
		wg.Wait()
		if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, contents[1]) {
			t.Errorf("in the end: %.20q, %v", b, err)
		}
		if i, err := os.Stat(path); err != nil || i.Mode() != 0o640 {
			t.Errorf("%v, %v", i, err)
		}
		deadline := time.Now().Add(30 * time.Second)
		for {
			left, err := os.ReadDir(dir)
			if err == nil && len(left) == 1 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("left: %v, %v", left, err)
			}
			time.Sleep(10 * time.Millisecond) // poll to the deadline
		}
	}
	if err := Write(filepath.Join(t.TempDir(), "absent", "record"), nil, 0o600, Process); err == nil {
		t.Error("written into a directory that is not there")
	}
}

// BenchmarkWrite replaces a record of 900 bytes. What the disk does is in it only for Power.
func BenchmarkWrite(b *testing.B) {
	for name, d := range map[string]Durability{"process": Process, "power": Power} {
		b.Run(name, func(b *testing.B) {
			dir, err := os.MkdirTemp("/var/tmp", "atomicfile") // a disk, where /tmp may be memory
			if err != nil {
				b.Fatal(err)
			}
			defer os.RemoveAll(dir)
			data := make([]byte, 900)
			for b.Loop() {
				if err := Write(filepath.Join(dir, "record"), data, 0o600, d); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
