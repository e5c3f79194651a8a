// SPDX-License-Identifier: Apache-2.0

package critest

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/testenv"
	"github.com/embedcri/embedcri/internal/testnode"
)

const tableHead = `| date | embedcri | critest | runtime | kernel, cgroups | flags | passed | failed | skipped |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
`

// record appends a row to the table, and its head to a file that is not there yet.
func (s *suite) record(t *testing.T, node *testnode.Node, r *result, flags []string) {
	t.Helper()
	version, err := node.Runtime.Version(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		t.Fatal(err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &fs); err != nil {
		t.Fatal(err)
	}
	cgroups := "v1"
	if fs.Type == unix.CGROUP2_SUPER_MAGIC {
		cgroups = "v2"
	}
	row := []string{
		time.Now().Format(time.DateOnly),
		version.GetRuntimeVersion(),
		strings.TrimPrefix(firstLine(t, s.critest, "-version"), "critest version: "),
		firstLine(t, testenv.RuncPath(t), "--version"),
		unix.ByteSliceToString(uts.Release[:]) + ", " + cgroups,
		strings.Join(flags, " "),
		fmt.Sprint(r.passed), fmt.Sprint(len(r.failed)), fmt.Sprint(len(r.skipped)),
	}
	f, err := os.OpenFile(*table, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	text := "| " + strings.Join(row, " | ") + " |\n"
	if st, err := f.Stat(); err == nil && st.Size() == 0 {
		text = tableHead + text
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// firstLine runs a program and returns the first line that it prints.
func firstLine(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(program, args...).Output()
	if err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}
