// SPDX-License-Identifier: Apache-2.0

package testnode

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWriteRow(t *testing.T) {
	file := filepath.Join(t.TempDir(), "doc.md")
	if err := os.WriteFile(file, []byte("# Title\n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []string{
		"2026-01-01 v1 critest-2 runc host `b` 1 0 0",
		"2026-01-01 v1 critest-2 runc host `a` 1 0 0",
		"2026-01-02 v2 critest-2 runc host `b` 22 0 3", // in place of the first
		"2026-01-02 v2 critest-2 crun host `b` 4 0 0",
	} {
		if err := writeRow(file, strings.Fields(row)); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := "# Title\n\n" + tableBegin + tableHead +
		"| 2026-01-02 | v2 | critest-2 | crun | host | `b` | 4 | 0 | 0 |\n" +
		"| 2026-01-01 | v1 | critest-2 | runc | host | `a` | 1 | 0 | 0 |\n" +
		"| 2026-01-02 | v2 | critest-2 | runc | host | `b` | 22 | 0 | 3 |\n" + tableEnd
	if string(b) != want {
		t.Errorf("got\n%s\nwant\n%s", b, want)
	}
}
