// SPDX-License-Identifier: Apache-2.0

package pidfd

import (
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// start runs a script whose reaping is the test's.
func start(t *testing.T, script string) int {
	t.Helper()
	p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", script}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	pid := p.Pid
	if err := p.Release(); err != nil {
		t.Fatal(err)
	}
	fd, err := Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func readable(t *testing.T, fd int) {
	t.Helper()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 20_000)
	if n != 1 || err != nil {
		t.Fatalf("pidfd not readable: %d, %v", n, err)
	}
}

func TestReap(t *testing.T) {
	for script, want := range map[string]unix.WaitStatus{
		"exit 0": 0, "exit 255": 255 << 8, "kill -TERM $$": 15, "kill -64 $$": 64,
	} {
		fd := start(t, script)
		readable(t, fd)
		for range 2 {
			if st, err := Peek(fd); err != nil || st != want {
				t.Errorf("%s: peek %#x, %v", script, st, err)
			}
		}
		if err := Signal(fd, 0); err != nil {
			t.Errorf("%s: a corpse is still there: %v", script, err)
		}
		if st, _, err := ExitInfo(fd); HasExitInfo() && err != ErrRunning {
			t.Errorf("%s: info before it is reaped: %#x, %v", script, st, err)
		}
		if st, err := Reap(fd); err != nil || st != want {
			t.Errorf("%s: %#x, %v; want %#x", script, st, err, want)
		}
		if _, err := Reap(fd); err != unix.ECHILD {
			t.Errorf("%s: second time: %v", script, err)
		}
		if err := Signal(fd, 0); err != unix.ESRCH {
			t.Errorf("%s: signal: %v", script, err)
		}
		st, cgroup, err := ExitInfo(fd)
		if HasExitInfo() && (err != nil || st != want || cgroup == 0) {
			t.Errorf("%s: info %#x, cgroup %d, %v", script, st, cgroup, err)
		}
	}
}

func TestRunning(t *testing.T) {
	fd := start(t, "exec sleep 1000")
	if _, err := Reap(fd); err != ErrRunning {
		t.Errorf("%v", err)
	}
	if _, _, err := ExitInfo(fd); HasExitInfo() && err != ErrRunning {
		t.Errorf("%v", err)
	}
	if err := Signal(fd, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	readable(t, fd)
	if st, err := Reap(fd); err != nil || !st.Signaled() || st.Signal() != unix.SIGKILL {
		t.Errorf("%#x, %v", st, err)
	}
}

func TestNotOurs(t *testing.T) {
	fd, err := Open(os.Getppid())
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := Reap(fd); err != unix.ECHILD {
		t.Errorf("%v", err)
	}
}

func TestOpenGone(t *testing.T) {
	cmd := exec.Command("/bin/true")
	if err := cmd.Run(); err != nil {
		t.Skip(err)
	}
	for end := time.Now().Add(10 * time.Second); ; {
		fd, err := Open(cmd.Process.Pid)
		if errors.Is(err, unix.ESRCH) {
			return
		}
		if err == nil {
			_ = unix.Close(fd)
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func TestStatusOf(t *testing.T) {
	if st, err := statusOf(cldDumped, 11); err != nil || !st.CoreDump() || st.Signal() != unix.SIGSEGV {
		t.Errorf("%#x, %v", st, err)
	}
	if _, err := statusOf(99, 0); err == nil {
		t.Error("nonsense is a status")
	}
}

func TestReleaseAtLeast(t *testing.T) {
	for release, want := range map[string]bool{
		"6.18.44-fc": true, "6.15.0": true, "6.14.9": false, "5.19": false, "7.0-rc1": true, "6.15rc1": true, "": false, "x": false,
	} {
		if got := releaseAtLeast(release, 6, 15); got != want {
			t.Errorf("%q: %v", release, got)
		}
	}
}
