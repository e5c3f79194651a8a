// SPDX-License-Identifier: Apache-2.0

package testnode

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/cgroup"
	"github.com/embedcri/embedcri/internal/testenv"
)

// Figures is what a conformance test has found with one client.
type Figures struct {
	Client  string // with its version
	Command string // what was run
	Passed  int
	Failed  int
	Skipped int
}

// The table of figures stands between these lines of the document.
const (
	tableBegin = "<!-- written by make conformance-docs: begin -->\n"
	tableEnd   = "<!-- written by make conformance-docs: end -->\n"
	tableHead  = "| date | embedcri | client | OCI runtime | kernel, cgroups, driver | command | passed | failed | skipped |\n" +
		"| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
)

// Record writes figures into the table of the document that $EMBEDCRI_CONFORMANCE names (docs/conformance.md), in place of what
// there is for the same client, OCI runtime, cgroups and command. Without the variable it does nothing.
func (n *Node) Record(f Figures) {
	n.T.Helper()
	file := os.Getenv("EMBEDCRI_CONFORMANCE")
	if file == "" {
		return
	}
	version, err := n.Runtime.Version(n.Ctx(), "")
	if err != nil {
		n.T.Fatal(err)
	}
	row := []string{time.Now().UTC().Format(time.DateOnly), version.GetRuntimeVersion(), f.Client, FirstLine(n.T, testenv.RuncPath(n.T), "--version"),
		machine(), "`" + f.Command + "`", fmt.Sprint(f.Passed), fmt.Sprint(f.Failed), fmt.Sprint(f.Skipped)}
	if err := writeRow(file, row); err != nil {
		n.T.Error(err)
	}
}

// machine tells the kernel and its cgroups.
func machine() string {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return err.Error()
	}
	version := "v1"
	if cgroup.Unified() {
		version = "v2"
	}
	return fmt.Sprintf("%s, %s, %s", unix.ByteSliceToString(uts.Release[:]), version, testenv.CgroupDriver())
}

// same are the columns that tell which row a new one takes the place of: all but the date, embedcri's version and the figures.
func same(row string) string {
	cells := strings.Split(strings.TrimSpace(row), " | ")
	if len(cells) != 9 {
		return row
	}
	return strings.Join(cells[2:6], " | ")
}

// writeRow puts a row into the table, also while other tests do.
func writeRow(file string, row []string) error {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(b), tableBegin)
	rows, after, closed := strings.Cut(rest, tableEnd)
	if ok != closed {
		return fmt.Errorf("%s: the table has no end", file)
	}
	text := "| " + strings.Join(row, " | ") + " |\n"
	lines := slices.Collect(strings.Lines(strings.TrimPrefix(rows, tableHead)))
	lines = slices.DeleteFunc(lines, func(l string) bool { return same(l) == same(text) })
	lines = append(lines, text)
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(same(a), same(b)) })
	text = before + tableBegin + tableHead + strings.Join(lines, "") + tableEnd + after
	if _, err := f.WriteAt([]byte(text), 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(text)))
}

// FirstLine runs a program and returns the first line that it prints.
func FirstLine(t interface{ Fatalf(string, ...any) }, program string, args ...string) string {
	out, err := exec.Command(program, args...).Output()
	if err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}
