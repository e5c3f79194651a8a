// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"os"
	"path/filepath"
	"testing"
)

// TestLayout1StillLoads opens a record of streams as a daemon wrote it when its layout was 1; testdata has its first page, the only
// one that is allocated at once.
func TestLayout1StillLoads(t *testing.T) {
	page, err := os.ReadFile("testdata/v1/record")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "record")
	if err := os.WriteFile(path, page, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, recordSize); err != nil {
		t.Fatal(err)
	}
	r, err := openRecord(path)
	if err != nil {
		t.Fatal(err)
	}
	if r.token(0) == 0 || r.token(0) == r.token(1) || r.stdinClosed() {
		t.Errorf("tokens %x and %x, stdin closed %v", r.token(0), r.token(1), r.stdinClosed())
	}
	if err := r.close(); err != nil {
		t.Error(err)
	}
}
