// SPDX-License-Identifier: Apache-2.0

package orphan

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

func start(t *testing.T, setsid bool, script string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: !setsid, Setsid: setsid}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); _ = cmd.Wait() })
	return cmd
}

// found lists the marked programs of dir.
func found(dir string) (pids []int) {
	for _, p := range find(dir) {
		pids = append(pids, p.pid)
		syscall.Close(p.fd)
	}
	return pids
}

// TestEnd ends what a daemon has started, children of it included, and nothing else.
func TestEnd(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	defer os.Unsetenv(env)
	stranger := start(t, false, "exec sleep 100") // before the mark
	if err := Mark(other); err != nil {
		t.Fatal(err)
	}
	foreign := start(t, false, "exec sleep 100")
	if err := Mark(dir); err != nil {
		t.Fatal(err)
	}
	own := []*exec.Cmd{start(t, false, "exec sleep 100"), start(t, false, "sleep 100; true")} // the second has a child
	daemonised := start(t, true, "exec sleep 100")
	quick := start(t, false, "exec sleep 1")
	for len(found(dir)) < 4 { // the second's child has to be forked
		if t.Context().Err() != nil {
			t.Fatal("the processes do not come up")
		}
		time.Sleep(poll)
	}

	ended := make(chan error, 3)
	for _, c := range append(own, quick) {
		go func() { ended <- c.Wait() }() // as pid 1 would
	}
	n, err := End(t.Context(), dir, 3*time.Second)
	if err != nil || n != 4 {
		t.Fatalf("%d found, %v; want 4", n, err)
	}
	for range 3 {
		<-ended
	}
	if quick.ProcessState.ExitCode() != 0 {
		t.Errorf("what would have ended by itself was not waited for: %v", quick.ProcessState)
	}
	for name, c := range map[string]*exec.Cmd{"unmarked": stranger, "another daemon's": foreign, "daemonised": daemonised} {
		if err := c.Process.Signal(syscall.Signal(0)); err != nil {
			t.Errorf("an innocent process (%s) was ended: %v", name, err)
		}
	}
	if left := found(dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}
