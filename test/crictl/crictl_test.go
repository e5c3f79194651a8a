// SPDX-License-Identifier: Apache-2.0

package crictl

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/embedcri/embedcri/internal/testenv"
	"github.com/embedcri/embedcri/internal/testnode"
)

// crictl is the program and what it is pointed at.
type crictl struct {
	*testing.T
	path string
	node *testnode.Node
	used map[string]bool // sub-commands that have been run
}

func find(t *testing.T) string {
	p, err := exec.LookPath(cmp.Or(os.Getenv("CRICTL"), "crictl"))
	if err == nil {
		p, err = filepath.Abs(p)
	}
	if err != nil {
		if slices.Contains(strings.Split(os.Getenv("EMBEDCRI_REQUIRE"), ","), "crictl") {
			t.Fatalf("EMBEDCRI_REQUIRE lists crictl, but it is neither on PATH nor named by CRICTL: %v", err)
		}
		t.Skipf("crictl is neither on PATH nor named by CRICTL: %v", err)
	}
	return p
}

func (c *crictl) command(args ...string) *exec.Cmd {
	c.used[args[0]] = true
	ctx, cancel := context.WithTimeout(context.Background(), testenv.Slow(2*time.Minute))
	c.Cleanup(cancel)
	config := filepath.Join(c.node.Dir, "crictl.yaml")
	cmd := exec.CommandContext(ctx, c.path, append([]string{"--config", config}, args...)...)
	cmd.WaitDelay = time.Second
	return cmd
}

// run runs a sub-command that has to succeed, with stdin, and returns what it prints.
func (c *crictl) run(stdin string, args ...string) string {
	c.Helper()
	cmd := c.command(args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	if err := cmd.Run(); err != nil {
		c.Fatalf("crictl %s: %v\n%s%s", strings.Join(args, " "), err, &out, &errOut)
	}
	return out.String()
}

// fails runs a sub-command that has to fail, and returns what it says.
func (c *crictl) fails(args ...string) string {
	c.Helper()
	out, err := c.command(args...).CombinedOutput()
	if err == nil {
		c.Fatalf("crictl %s succeeds: %s", strings.Join(args, " "), out)
	}
	return string(out)
}

// want runs a sub-command and looks for regular expressions in what it prints.
func (c *crictl) want(args []string, patterns ...string) {
	c.Helper()
	// protojson puts one space or two behind a colon, as it was compiled (internal/detrand): nobody is to rely on it.
	out := strings.ReplaceAll(c.run("", args...), `":  `, `": `)
	for _, p := range patterns {
		if !regexp.MustCompile(p).MatchString(out) {
			c.Errorf("crictl %s: no %q in\n%.2000s", strings.Join(args, " "), p, out)
		}
	}
}

// background runs a sub-command and returns its output and what ends it.
func (c *crictl) background(args ...string) (*bytes.Buffer, io.ReadCloser, func()) {
	c.Helper()
	cmd := c.command(args...)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		c.Fatal(err)
	}
	return &errOut, out, func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = out.Close()
		_ = cmd.Wait()
	}
}

// file writes a message of the CRI as JSON, which crictl reads.
func (c *crictl) file(name string, v any) string {
	c.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		c.Fatal(err)
	}
	p := filepath.Join(c.node.Dir, name)
	if err := os.WriteFile(p, b, 0o600); err != nil {
		c.Fatal(err)
	}
	return p
}

// noRuntime are the sub-commands that do not speak to a runtime.
var noRuntime = []string{"completion", "config", "help"}

// unknown lists the sub-commands of this crictl that have not been run.
func (c *crictl) unknown() []string {
	out := c.run("", "help")
	_, list, _ := strings.Cut(out, "COMMANDS:\n")
	list, _, _ = strings.Cut(list, "\nGLOBAL OPTIONS")
	all := map[string]bool{}
	for line := range strings.Lines(list) {
		if f := strings.Fields(line); len(f) > 0 && strings.HasPrefix(line, "   ") && !strings.HasPrefix(line, "    ") {
			all[strings.TrimSuffix(f[0], ",")] = true
		}
	}
	if len(all) < 20 {
		c.Errorf("cannot read the list of sub-commands:\n%s", out)
	}
	return slices.DeleteFunc(slices.Sorted(maps.Keys(all)), func(s string) bool { return c.used[s] || slices.Contains(noRuntime, s) })
}
