// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// startTTY does what runc does for a process with a terminal: it sends the master through the
// console socket and keeps only the slave.
func startTTY(t testing.TB, st *Streams, script string) *exec.Cmd {
	t.Helper()
	stdio, err := st.Stdio()
	if err != nil {
		t.Fatal(err)
	}
	master, slave := openPTY(t)
	conn, err := net.Dial("unix", stdio.ConsoleSocket)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := conn.(*net.UnixConn).WriteMsgUnix([]byte("/dev/ptmx"), unix.UnixRights(int(master.Fd())), nil); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := errors.Join(cmd.Start(), slave.Close(), master.Close(), conn.Close()); err != nil {
		t.Fatal(err)
	}
	if err := st.Started(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func openPTY(t testing.TB) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

func TestTTY(t *testing.T) {
	for _, exec := range []bool{false, true} {
		t.Run(fmt.Sprint("exec=", exec), func(t *testing.T) {
			n := newNode(t, HubOptions{})
			st := n.create("c", Options{TTY: true, Stdin: true, StdinOnce: true, Exec: exec})
			if err := st.Resize(101, 33); err != nil { // before there is a terminal
				t.Fatal(err)
			}
			var out sink
			in, typed := io.Pipe()
			resize := make(chan Size)
			var done chan error
			join := func() {
				done = attach(t, t.Context(), st, Client{Stdin: in, Stdout: &out, TTY: true, Resize: resize})
			}
			if exec {
				join()
			}
			cmd := startTTY(t, st, `read go; stty size; read a; stty size; echo "got $a"; read b; printf bye`)
			if !exec {
				join()
			}
			fmt.Fprint(typed, "go\n")
			await(t, func() bool { return strings.Contains(out.String(), "33 101\r\n") })
			resize <- Size{Width: 80, Height: 25}
			resize <- Size{Width: 80, Height: 24}
			await(t, func() bool {
				ws, err := unix.IoctlGetWinsize(st.tty, unix.TIOCGWINSZ)
				return err == nil && ws.Col == 80 && ws.Row == 24
			})
			fmt.Fprint(typed, "hello\n")
			await(t, func() bool { return strings.Contains(out.String(), "24 80\r\ngot hello\r\n") })
			fmt.Fprint(typed, "\n")
			drain(t, st, cmd)
			if err := result(t, done); err != nil {
				t.Error(err)
			}
			if !strings.HasSuffix(out.String(), "\r\nbye") {
				t.Errorf("terminal showed %q", out.String())
			}
			if err := st.Resize(1, 1); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("resize afterwards: %v", err)
			}
			if !exec {
				if got := output(readLog(t, n.log("c")), "stdout"); got != out.String()+"\n" {
					t.Errorf("log %q, terminal %q", got, out.String())
				}
			}
		})
	}
}

func TestStartedWithoutTerminal(t *testing.T) {
	n := newNode(t, HubOptions{})
	st := n.create("c", Options{TTY: true})
	stdio, err := st.Stdio()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", stdio.ConsoleSocket)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, _, err := conn.(*net.UnixConn).WriteMsgUnix([]byte("x"), unix.UnixRights(int(w.Fd())), nil); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), conn.Close()); err != nil {
		t.Fatal(err)
	}
	if err := st.Started(); err == nil {
		t.Error("a pipe was taken for a terminal")
	}
}
