// SPDX-License-Identifier: Apache-2.0

package testnode

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	criclient "k8s.io/cri-client/pkg"

	"github.com/embedcri/embedcri/internal/testenv"
)

// Start runs the daemon and waits until it serves and the node's clients are connected.
func (n *Node) Start() {
	n.T.Helper()
	n.Launch()
	n.dial(time.Now().Add(30 * time.Second))
	if n.idle == (load{}) {
		n.idle, _ = n.load(context.Background())
	}
}

// Launch runs the daemon and waits until it serves. The node's own clients may take a while longer to be back: gRPC waits before
// it tries again.
func (n *Node) Launch() {
	n.T.Helper()
	n.Spawn()
	for deadline := time.Now().Add(testenv.Slow(30 * time.Second)); ; {
		if peer(n.Socket) == n.daemon.Process.Pid {
			break
		}
		select {
		case <-n.exited:
			n.T.Fatalf("the daemon has ended:\n%s", n.Log())
		default:
		}
		if time.Now().After(deadline) {
			n.T.Fatalf("the daemon does not serve:\n%s", n.Log())
		}
		time.Sleep(2 * time.Millisecond) // poll to the deadline
	}
}

// Spawn runs the daemon and waits for nothing: it may be one that is to end before it serves.
func (n *Node) Spawn() {
	n.T.Helper()
	log, err := os.OpenFile(n.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.T.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(n.program(), "run", "-config", n.config, fmt.Sprintf("-v=%d", n.o.Verbosity))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = slices.Concat(os.Environ(), []string{"TMPDIR=" + n.tempDir()}, n.o.Env)
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	if err := n.InNet(cmd.Start); err != nil {
		n.T.Fatal(err)
	}
	n.daemon, n.exited = cmd, make(chan struct{})
	go func(exited chan struct{}) {
		_ = cmd.Wait()
		close(exited)
	}(n.exited)
}

// peer is the pid of the process that listens on a socket; 0 if there is none. That the socket answers says nothing about who does:
// a child that a killed daemon had forked and that has not executed its program yet holds that daemon's socket open, too.
func peer(socket string) (pid int) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return 0
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}

// dial makes the node's clients, or waits until they have found the new daemon.
func (n *Node) dial(deadline time.Time) {
	n.T.Helper()
	ctx := context.Background()
	var err error
	if n.Runtime == nil {
		n.Runtime, err = criclient.NewRemoteRuntimeServiceBuilder().WithEndpoint("unix://" + n.Socket).WithConnectionTimeout(testenv.Slow(4 * time.Minute)).Build(ctx)
		if err != nil {
			n.T.Fatal(err)
		}
		n.Images, err = criclient.NewRemoteImageServiceBuilder().WithEndpoint("unix://" + n.Socket).WithConnectionTimeout(testenv.Slow(4 * time.Minute)).Build(ctx)
		if err != nil {
			n.T.Fatal(err)
		}
	}
	// A client of the previous daemon reconnects with a back-off; wait until it has.
	for {
		if _, err = n.Runtime.Version(ctx, ""); err == nil {
			return
		}
		if time.Now().After(deadline) {
			n.T.Fatalf("the client does not reconnect: %v\n%s", err, n.Log())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Kill ends the daemon with SIGKILL; what it holds lives on.
func (n *Node) Kill() { n.T.Helper(); n.end(unix.SIGKILL) }

// Term ends the daemon with SIGTERM.
func (n *Node) Term() { n.T.Helper(); n.end(unix.SIGTERM) }

func (n *Node) end(sig unix.Signal) {
	n.T.Helper()
	if n.daemon == nil {
		return
	}
	if err := n.daemon.Process.Signal(sig); err != nil && err != os.ErrProcessDone {
		n.T.Error(err)
	}
	select {
	case <-n.exited:
	case <-time.After(testenv.Slow(30 * time.Second)):
		n.T.Errorf("the daemon does not end on %v:\n%s", sig, n.Log())
		_ = n.daemon.Process.Kill()
		<-n.exited
	}
	n.daemon = nil
}

// Died is closed when the daemon that was started last has ended, by whomever.
func (n *Node) Died() <-chan struct{} { return n.exited }

// UsePrograms has daemons that are started from now on run from dir, as after an update.
func (n *Node) UsePrograms(dir string) { n.bin = dir }

func (n *Node) program() string {
	if n.bin != "" {
		return filepath.Join(n.bin, "embedcri")
	}
	return testenv.Tool(n.T, "embedcri")
}

// Setenv adds to the environment of daemons that are started from now on.
func (n *Node) Setenv(kv ...string) { n.o.Env = append(n.o.Env, kv...) }

// PowerCycle takes away what a reboot takes away: processes, cgroups, mounts, pins, all that is in /run. There must be no daemon.
func (n *Node) PowerCycle() {
	n.T.Helper()
	if n.daemon != nil {
		n.T.Fatal("the daemon runs")
	}
	if k := n.Keeper(); k > 0 {
		_ = unix.Kill(k, unix.SIGKILL)
	}
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + n.Parent)
	n.Eventually("cgroups are gone", func() error {
		var errs []error
		for _, top := range append(dirs, "/sys/fs/cgroup"+n.Parent) {
			var all []string
			_ = filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					all = append(all, path)
				}
				return nil
			})
			for _, dir := range slices.Backward(all) {
				procs, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
				for _, f := range strings.Fields(string(procs)) {
					if pid, err := strconv.Atoi(f); err == nil && pid > 1 {
						_ = unix.Kill(pid, unix.SIGKILL)
					}
				}
				if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
					errs = append(errs, err)
				}
			}
		}
		return errors.Join(errs...)
	})
	for _, m := range slices.Backward(mountsBelow(n.State)) {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil {
			n.T.Fatalf("unmount %s: %v", m, err)
		}
	}
	for _, dir := range []string{n.State, n.BPF} {
		if err := removeTree(dir); err != nil {
			n.T.Fatal(err)
		}
	}
	if err := os.MkdirAll(n.State, 0o755); err != nil {
		n.T.Fatal(err)
	}
}

// Pid returns the daemon's pid.
func (n *Node) Pid() int { return n.daemon.Process.Pid }

// Log returns what the daemons of this node have logged.
func (n *Node) Log() string {
	b, _ := os.ReadFile(n.LogFile)
	if len(b) > 20000 {
		b = b[len(b)-20000:]
	}
	return string(b)
}

// Command returns a command of the embedcri program for this node.
func (n *Node) Command(name string, args ...string) *exec.Cmd {
	return exec.Command(n.program(), append([]string{name, "-config", n.config}, args...)...)
}
