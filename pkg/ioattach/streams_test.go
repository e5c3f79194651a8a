// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// node is a hub with a directory for containers.
type node struct {
	t    testing.TB
	hub  *Hub
	root string
}

func newNode(t testing.TB, o HubOptions) *node {
	t.Helper()
	n := &node{t: t, root: t.TempDir()}
	o.Dir = filepath.Join(n.root, "hub")
	var err error
	if n.hub, err = New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.hub.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *node) dir(id string) string { return filepath.Join(n.root, id, "io") }
func (n *node) log(id string) string { return filepath.Join(n.root, "logs", id+".log") }

// create makes the streams of container id with a log.
func (n *node) create(id string, o Options) *Streams {
	n.t.Helper()
	if o.LogPath == "" && !o.Exec {
		o.LogPath = n.log(id)
	}
	st, err := n.hub.Create(n.dir(id), o)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		if err := st.Remove(); err != nil {
			n.t.Error(err)
		}
	})
	return st
}

// start runs a shell script as the process of st.
func start(t testing.TB, st *Streams, script string) *exec.Cmd {
	t.Helper()
	return startCmd(t, st, exec.Command("/bin/sh", "-c", script))
}

func startCmd(t testing.TB, st *Streams, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	io, err := st.Stdio()
	if err != nil {
		t.Fatal(err)
	}
	if io.Stdin != nil {
		cmd.Stdin = io.Stdin
	}
	cmd.Stdout, cmd.Stderr = io.Stdout, io.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := st.Started(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// drain waits for the process and the end of its output.
func drain(t testing.TB, st *Streams, cmd *exec.Cmd) {
	t.Helper()
	if cmd != nil {
		_ = cmd.Wait()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	st.Drain(ctx)
	select {
	case <-st.Drained():
	default:
		t.Fatal("not drained")
	}
}

var logLine = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) ([FP]) (?s:(.*))$`)

// entry is one parsed log line.
type entry struct{ stream, tag, text string }

// readLog parses log files and fails on anything that is not a whole CRI line.
func readLog(t testing.TB, paths ...string) []entry {
	t.Helper()
	var all []entry
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > 0 && b[len(b)-1] != '\n' {
			t.Fatalf("%s does not end with a newline: %q", p, b[max(0, len(b)-80):])
		}
		for line := range strings.Lines(string(b)) {
			line = strings.TrimSuffix(line, "\n")
			if len(line) < stampLen+10 || line[stampLen] != ' ' || line[stampLen+7] != ' ' || line[stampLen+9] != ' ' {
				t.Fatalf("%s: not a log line: %q", p, line[:min(len(line), 200)])
			}
			if head := line[:stampLen+10]; !logLine.MatchString(head) {
				t.Fatalf("%s: not a log line: %q", p, head)
			}
			all = append(all, entry{line[stampLen+1 : stampLen+7], line[stampLen+8 : stampLen+9], line[stampLen+10:]})
		}
	}
	return all
}

// output puts a stream's content together again.
func output(entries []entry, stream string) string {
	var b strings.Builder
	for _, e := range entries {
		if e.stream == stream {
			b.WriteString(e.text)
			if e.tag == "F" {
				b.WriteByte('\n')
			}
		}
	}
	return b.String()
}

func TestLogOfSimpleProcess(t *testing.T) {
	n := newNode(t, HubOptions{})
	st := n.create("c", Options{})
	cmd := start(t, st, `echo one; echo two >&2; printf three`)
	drain(t, st, cmd)
	got := readLog(t, n.log("c"))
	if out := output(got, "stdout"); out != "one\nthree\n" {
		t.Errorf("stdout %q", out)
	}
	if out := output(got, "stderr"); out != "two\n" {
		t.Errorf("stderr %q", out)
	}
}
