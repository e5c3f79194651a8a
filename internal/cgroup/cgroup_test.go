// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/testenv"
)

func TestFromOCI(t *testing.T) {
	for in, want := range map[string]string{
		"/kubepods/pod1/abc":                   "/kubepods/pod1/abc",
		"relative/abc":                         "/relative/abc",
		"kubepods-pod1.slice:cri-embedcri:abc": "/kubepods.slice/kubepods-pod1.slice/cri-embedcri-abc.scope",
		"system.slice:cri-embedcri:abc":        "/system.slice/cri-embedcri-abc.scope",
		"-.slice:cri-embedcri:abc":             "/cri-embedcri-abc.scope",
		"a-b-c.slice:x:y":                      "/a.slice/a-b.slice/a-b-c.slice/x-y.scope",
		"/../../etc":                           "/etc", // joined below the root, whatever it says
	} {
		if got := FromOCI(in).Path(); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// TestKill kills a cgroup whose members fork on and on, one of them in a sub-cgroup.
func TestKill(t *testing.T) {
	testenv.Require(t, testenv.Root)
	c := FromOCI("/embedcri-cgroup-test-" + strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(c.procDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	sub, _, err := c.Sub("exec-1")
	if err != nil {
		t.Fatal(err)
	}
	var cmds []*exec.Cmd
	for _, in := range []*Cgroup{c, sub} {
		cmd := exec.Command("sh", "-c", "echo $$ > "+filepath.Join(in.procDir(), "cgroup.procs")+"; echo ready; while :; do sleep 0.01 & wait; done")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 6)); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	if alive, err := c.Alive(); err != nil || !alive {
		t.Fatalf("alive: %v, %v", alive, err)
	}
	if err := c.Kill(); err != nil {
		t.Error(err)
	}
	for _, cmd := range cmds {
		var e *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &e) || e.Sys().(interface{ Signal() unix.Signal }).Signal() != unix.SIGKILL {
			t.Errorf("ended with %v, want SIGKILL", err)
		}
	}
	// Orphans among them are pid 1's to reap, which may take it a second.
	for _, cg := range []*Cgroup{sub, c} {
		for err = cg.Remove(); errors.Is(err, unix.EBUSY); err = cg.Remove() {
		}
		if err != nil {
			t.Error(err)
		}
	}
	if alive, err := c.Alive(); err != nil || alive {
		t.Errorf("a cgroup that is gone: %v, %v", alive, err)
	}
}

// TestOpenAhead wants it to leave this process where it is.
func TestOpenAhead(t *testing.T) {
	testenv.Require(t, testenv.Root)
	procs := ownProcs()
	if procs == "" {
		t.Fatal("this process' cgroup is not found")
	}
	before, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(procs); err != nil || !slices.Contains(strings.Fields(string(b)), strconv.Itoa(os.Getpid())) {
		t.Errorf("%s does not hold this process (%v)", procs, err)
	}
	OpenAhead()
	for deadline := time.Now().Add(10 * time.Second); opening.Load(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not end")
		}
	}
	if after, err := os.ReadFile("/proc/self/cgroup"); err != nil || string(after) != string(before) {
		t.Errorf("moved: %s, %v", after, err)
	}
}
