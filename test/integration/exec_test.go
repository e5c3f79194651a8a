// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"k8s.io/client-go/tools/remotecommand"
	clientexec "k8s.io/client-go/util/exec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testenv"
)

// code is the exit code that a client has been told; -1 if it was told something else.
func code(err error) int {
	var exit clientexec.CodeExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.Code
	}
	return -1
}

// TestExec runs commands with streams as kubectl exec does, over each protocol.
func TestExec(t *testing.T) {
	n := startStreamNode(t)
	id := n.run(nil, "sleep", "1000")
	n.flat(func() {
		for _, transport := range transports {
			t.Run(transport, func(t *testing.T) { n.execOver(t, transport, id) })
		}
	})
}

func (n *streamNode) execOver(t *testing.T, transport, id string) {
	ctx := n.Ctx()
	var out, errOut output
	err := n.exec(ctx, transport, id, remotecommand.StreamOptions{Stdout: &out, Stderr: &errOut}, "sh", "-c", "echo out; echo err >&2; exit 7")
	if code(err) != 7 || out.String() != "out\n" || errOut.String() != "err\n" {
		t.Errorf("exit 7: %v, %q, %q", err, &out, &errOut)
	}

	// The command ends, its client does not: it holds stdin open.
	in, keep := io.Pipe()
	out = output{}
	started := time.Now()
	err = n.exec(ctx, transport, id, remotecommand.StreamOptions{Stdin: in, Stdout: &out}, "sh", "-c", "echo done; exit 3")
	if took := time.Since(started); code(err) != 3 || out.String() != "done\n" || took > 5*time.Second {
		t.Errorf("stdin held open: %v, %q, after %v", err, &out, took)
	}
	keep.Close()

	const size = 100_000_000
	sum := md5.New()
	body := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{}), size), sum)
	cmd := "md5sum"
	if transport == "websocket v4" { // has no way to say that stdin ends
		cmd = fmt.Sprintf("head -c %d | md5sum", size)
	}
	out = output{}
	started = time.Now()
	err = n.exec(ctx, transport, id, remotecommand.StreamOptions{Stdin: body, Stdout: &out}, "sh", "-c", cmd)
	if want := fmt.Sprintf("%x  -\n", sum.Sum(nil)); err != nil || out.String() != want {
		t.Errorf("100 MB through stdin: %v, %q, want %q", err, &out, want)
	}
	t.Logf("100 MB through stdin: %.0f MB/s", size/1e6/time.Since(started).Seconds())

	sum.Reset()
	started = time.Now()
	err = n.exec(ctx, transport, id, remotecommand.StreamOptions{Stdout: sum}, "stream", "random", fmt.Sprint(size), "65536", "1")
	if want := randomSum(size, 1); err != nil || !bytes.Equal(sum.Sum(nil), want) {
		t.Errorf("100 MB from stdout: %v, or they are damaged", err)
	}
	t.Logf("100 MB from stdout: %.0f MB/s", size/1e6/time.Since(started).Seconds())

	// A terminal: one output, and a size that follows the client's.
	sizes := make(sizeQueue, 2)
	sizes <- remotecommand.TerminalSize{Width: 120, Height: 40}
	out = output{}
	ended := make(chan error, 1)
	go func() {
		in, _ := io.Pipe() // stays open
		ended <- n.exec(ctx, transport, id, remotecommand.StreamOptions{Stdin: in, Stdout: &out, Tty: true, TerminalSizeQueue: sizes},
			"sh", "-c", "tty >&2; until stty size | grep '40 120'; do sleep 0.01; done; until stty size | grep '50 132'; do sleep 0.01; done; exit 9")
	}()
	n.has(&out, "40 120\r\n")
	sizes <- remotecommand.TerminalSize{Width: 132, Height: 50}
	if err := <-ended; code(err) != 9 || !strings.Contains(out.String(), "/dev/pts/") || !strings.Contains(out.String(), "50 132") {
		t.Errorf("terminal: %v, %q", err, &out)
	}
	close(sizes)

	for command, text := range map[string]string{
		"no-such-command": "executable file not found in $PATH", "/no/such/file": "no such file or directory", "/etc/passwd": "permission denied",
	} {
		err := n.exec(ctx, transport, id, remotecommand.StreamOptions{Stdout: io.Discard}, command)
		if err == nil || code(err) > 0 || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v, want %q", command, err, text)
		}
	}
}

// randomSum is the MD5 sum of what "stream random n PER seed" writes.
func randomSum(n int64, seed byte) []byte {
	sum := md5.New()
	_, _ = io.CopyN(sum, rand.NewChaCha8([32]byte{seed}), n)
	return sum.Sum(nil)
}

// sizeQueue gives a client its terminal's sizes.
type sizeQueue chan remotecommand.TerminalSize

func (q sizeQueue) Next() *remotecommand.TerminalSize {
	if s, ok := <-q; ok {
		return &s
	}
	return nil
}

// refused wants every call that needs a running container to be refused.
func (n *streamNode) refused(id string, code codes.Code, text string) {
	n.t.Helper()
	_, _, err := n.Runtime.ExecSync(n.Ctx(), id, []string{"true"}, time.Minute)
	want(n.t, err, code, text)
	_, err = n.Runtime.Exec(n.Ctx(), &runtimeapi.ExecRequest{ContainerId: id, Cmd: []string{"true"}, Stdout: true})
	want(n.t, err, code, text)
	_, err = n.Runtime.Attach(n.Ctx(), &runtimeapi.AttachRequest{ContainerId: id, Stdout: true})
	want(n.t, err, code, text)
}

// TestExecRefused wants a clear error where there is nothing to execute in, and nothing left of the attempt.
func TestExecRefused(t *testing.T) {
	n := startStreamNode(t)
	exited := n.run(nil, "true")
	n.WaitExited(exited)
	created := n.Create(n.pod, n.pc, n.ContainerConfig(n.ref, "sleep", "1000"))
	running := n.run(nil, "sleep", "1000")
	n.flat(func() {
		n.refused(exited, codes.FailedPrecondition, "is exited, not running")
		n.refused(created, codes.FailedPrecondition, "is created, not running")
		n.refused(strings.Repeat("ab", 32), codes.NotFound, strings.Repeat("ab", 32))
		_, _, err := n.Runtime.ExecSync(n.Ctx(), running, nil, time.Second)
		want(t, err, codes.InvalidArgument, "cmd")

		// The CRI cannot pause, people can.
		runc := func(verb string) {
			t.Helper()
			out, err := exec.Command(testenv.RuncPath(t), "--root", filepath.Join(n.State, "runtime", "runc"), verb, running).CombinedOutput()
			if err != nil {
				t.Fatalf("runc %s: %v: %s", verb, err, out)
			}
		}
		runc("pause")
		_, _, err = n.Runtime.ExecSync(n.Ctx(), running, []string{"true"}, time.Minute)
		want(t, err, codes.FailedPrecondition, "paused")
		err = n.exec(n.Ctx(), "spdy", running, remotecommand.StreamOptions{Stdout: io.Discard}, "true")
		if err == nil || !strings.Contains(err.Error(), "paused") {
			t.Errorf("exec in a paused container: %v", err)
		}
		runc("resume")
		if _, _, err = n.Runtime.ExecSync(n.Ctx(), running, []string{"true"}, time.Minute); err != nil {
			t.Errorf("exec in a container that was paused: %v", err)
		}
		for _, cmd := range []string{"no-such-command", "/no/such/file", "/etc/passwd"} {
			if _, _, err = n.Runtime.ExecSync(n.Ctx(), running, []string{cmd}, time.Minute); err == nil || !strings.Contains(err.Error(), cmd) {
				t.Errorf("%s: %v", cmd, err)
			}
		}
	})
	n.noExecGroups(running)

	// One whose record has been damaged runs, but nobody knows it.
	n.Kill()
	if err := os.WriteFile(filepath.Join(n.Dir, "root", "state", "containers", running, "status.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.Start()
	n.flat(func() { n.refused(running, codes.FailedPrecondition, "is unknown, not running") })
}

// TestExecShort: what a command prints gets to its client, however soon it is over.
func TestExecShort(t *testing.T) {
	n := startStreamNode(t)
	id := n.run(nil, "sleep", "1000")
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			for i := range 12 {
				var out output
				text := fmt.Sprintf("%d of %d\n", i, w)
				err := n.exec(n.Ctx(), transports[w%3], id, remotecommand.StreamOptions{Stdout: &out, Tty: w > 2}, "echo", "-n", text)
				if err != nil || strings.ReplaceAll(out.String(), "\r\n", "\n") != text {
					t.Errorf("%s, terminal %v: %v, %q", transports[w%3], w > 2, err, &out)
				}
			}
		})
	}
	wg.Wait()
}

// TestExecWhileStopping: a command may still be run while a container has its grace period, and ends with it.
func TestExecWhileStopping(t *testing.T) {
	n := startStreamNode(t)
	id := n.run(nil, "sh", "-c", "trap 'echo asked' TERM; while :; do sleep 0.01; done")
	var out output
	ended := make(chan error, 1)
	go func() {
		in, _ := io.Pipe()
		ended <- n.exec(n.Ctx(), "spdy", id, remotecommand.StreamOptions{Stdin: in, Stdout: &out}, "sh", "-c", "echo here; cat")
	}()
	n.has(&out, "here")
	stopped := make(chan error, 1)
	go func() { stopped <- n.Runtime.StopContainer(n.Ctx(), id, 2) }()
	n.Eventually("the container has been asked to stop", func() error {
		if l := n.ContainerLog(id); len(l) == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	if _, _, err := n.Runtime.ExecSync(n.Ctx(), id, []string{"true"}, time.Minute); err != nil {
		t.Errorf("exec while the container stops: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		if code(err) != 137 {
			t.Errorf("the exec ended with its container: %v, want exit code 137", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the exec of a stopped container goes on")
	}
}

// TestStreamingToken: a URL is good for one client.
func TestStreamingToken(t *testing.T) {
	n := startStreamNode(t)
	id := n.run(nil, "sleep", "1000")
	for _, transport := range transports {
		r, err := n.Runtime.Exec(n.Ctx(), &runtimeapi.ExecRequest{ContainerId: id, Cmd: []string{"echo", "once"}, Stdout: true})
		if err != nil {
			t.Fatal(err)
		}
		var out output
		if err := connect(n.Ctx(), transport, r.Url, remotecommand.StreamOptions{Stdout: &out}); err != nil || out.String() != "once\n" {
			t.Errorf("%s: %v, %q", transport, err, &out)
		}
		err = connect(n.Ctx(), transport, r.Url, remotecommand.StreamOptions{Stdout: &out})
		if err == nil || out.String() != "once\n" {
			t.Errorf("%s: the same URL again: %v, %q", transport, err, &out)
		}
		t.Logf("%s: the same URL again: %v", transport, err)
	}
	// What was true when the URL was made is looked at again.
	r, err := n.Runtime.Exec(n.Ctx(), &runtimeapi.ExecRequest{ContainerId: id, Cmd: []string{"true"}, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	a, err := n.Runtime.Attach(n.Ctx(), &runtimeapi.AttachRequest{ContainerId: id, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Runtime.StopContainer(n.Ctx(), id, 0); err != nil {
		t.Fatal(err)
	}
	for _, u := range []string{r.Url, a.Url} {
		if err := connect(n.Ctx(), "spdy", u, remotecommand.StreamOptions{Stdout: io.Discard}); err == nil || !strings.Contains(err.Error(), "not running") {
			t.Errorf("session of a container that has stopped meanwhile: %v", err)
		}
	}
}

// TestExecClientLeaves: the process of a client that goes away runs on, as from kubectl exec elsewhere; one with a terminal is hung
// up on. Nothing of the session stays.
func TestExecClientLeaves(t *testing.T) {
	n := startStreamNode(t)
	id := n.run(nil, "sleep", "1000")
	n.flat(func() {
		for _, transport := range transports {
			for _, tty := range []bool{false, true} {
				ctx, leave := context.WithCancel(n.Ctx())
				var out output
				ended := make(chan error, 1)
				go func() {
					in, _ := io.Pipe()
					ended <- n.exec(ctx, transport, id, remotecommand.StreamOptions{Stdin: in, Stdout: &out, Tty: tty}, "sh", "-c", "echo here; exec sleep 77")
				}()
				n.has(&out, "here")
				leave()
				<-ended
				n.Eventually("the process is as it should be", func() error {
					if pids := processesIn(id, "sleep 77"); len(pids) > 0 == tty {
						return fmt.Errorf("%s, terminal %v: processes %v", transport, tty, pids)
					}
					return nil
				})
				for _, pid := range processesIn(id, "sleep 77") {
					_ = unix.Kill(pid, unix.SIGKILL)
				}
			}
		}
	})
}
