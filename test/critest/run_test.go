// SPDX-License-Identifier: Apache-2.0

package critest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/testenv"
	"github.com/embedcri/embedcri/internal/testnode"
)

// limit bounds one run of the suite, which takes a minute or two.
const limit = 30 * time.Minute

// suite is critest and all that its runs share.
type suite struct {
	critest    string
	images     served
	exceptions []exception
}

func newSuite(t *testing.T) *suite {
	t.Helper()
	return &suite{critest: findCritest(t), images: serveImages(t), exceptions: exceptions(testenv.RuncPath(t))}
}

// run starts a daemon, runs the specs whose names match focus against it (all, if empty), and judges what critest reports.
func (s *suite) run(t *testing.T, focus string, flags ...string) {
	node := testnode.Start(t, testnode.Options{Config: fmt.Sprintf("[image]\ncert_dirs = [%q]\n", s.images.certs)})
	defer removeSharedMemory(t)()

	if focus != "" {
		flags = append(flags, "-ginkgo.focus="+focus)
	}
	dir := t.TempDir()
	args := append([]string{"-runtime-endpoint=unix://" + node.Socket, "-image-endpoint=unix://" + node.Socket,
		"-ginkgo.json-report=report.json", "-ginkgo.no-color", "-ginkgo.timeout=" + limit.String()}, flags...)
	for _, e := range s.exceptions {
		if e.deselect {
			args = append(args, "-ginkgo.skip="+e.spec)
		}
	}
	output, err := os.Create(filepath.Join(dir, "output.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	ctx, cancel := context.WithTimeout(t.Context(), limit+time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.critest, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, output, output
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) } // with the processes that ginkgo has started
	failure := cmd.Run()
	keep(t, dir, node)

	// One process leaves the report in its working directory, several leave it beside the link to critest that they are started by.
	report := filepath.Join(dir, "report.json")
	if beside, _ := filepath.Glob(filepath.Join(dir, "cri-test*", "report.json")); len(beside) > 0 {
		report = beside[0]
	}
	r, err := readReport(report, s.exceptions, focus != "")
	if err != nil {
		t.Fatalf("%v (critest: %v)\n%s", err, failure, tail(output.Name()))
	}
	t.Logf("critest %s: %s", strings.Join(flags, " "), r)
	node.Record(testnode.Figures{
		Client:  "critest " + strings.TrimPrefix(testnode.FirstLine(t, s.critest, "-version"), "critest version: "),
		Command: strings.Join(append([]string{"critest"}, flags...), " "), Passed: r.passed, Failed: len(r.failed), Skipped: len(r.skipped),
	})
	switch {
	case !r.ok():
		t.Fail()
	case failure != nil:
		t.Errorf("critest: %v, although no spec has failed\n%s", failure, tail(output.Name()))
	}
}

// keep copies what tells about a run to the directory that the flag names.
func keep(t *testing.T, dir string, node *testnode.Node) {
	if *logs == "" {
		return
	}
	to := filepath.Join(*logs, strings.ReplaceAll(t.Name(), "/", "-"))
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Error(err)
		return
	}
	files, _ := filepath.Glob(filepath.Join(dir, "cri-test*", "report.json"))
	for _, f := range append(files, filepath.Join(dir, "report.json"), filepath.Join(dir, "output.txt"), node.LogFile) {
		b, err := os.ReadFile(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, filepath.Base(f)), b, 0o644)
		}
		if err != nil {
			t.Error(err)
		}
	}
}

// tail returns the end of a file, for an error message.
func tail(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}
