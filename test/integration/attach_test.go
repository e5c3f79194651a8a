// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// stdin gives a container an open stdin.
func stdin(c *runtimeapi.ContainerConfig) { c.Stdin = true }

// terminal gives it a terminal as well.
func terminal(c *runtimeapi.ContainerConfig) { c.Stdin, c.Tty = true, true }

// attached is one client of a container's streams.
type attached struct {
	out, errOut output
	in          *io.PipeWriter
	ended       chan error
	leave       context.CancelFunc
}

// attachTo connects a client in the background.
func (n *streamNode) attachTo(transport, id string, tty bool) *attached {
	r, in := io.Pipe()
	ctx, leave := context.WithCancel(n.Ctx())
	a := &attached{in: in, ended: make(chan error, 1), leave: leave}
	o := remotecommand.StreamOptions{Stdin: r, Stdout: &a.out, Tty: tty}
	if !tty {
		o.Stderr = &a.errOut
	}
	go func() { a.ended <- n.attach(ctx, transport, id, o) }()
	return a
}

// TestAttach: several clients see the same and may all write; the log has it all; all end with the container.
func TestAttach(t *testing.T) {
	n := startStreamNode(t)
	n.flat(func() {
		id := n.run(stdin, "sh", "-c", `while read line; do echo "out $line"; echo "err $line" >&2; [ "$line" = end ] && exit 5; done`)
		var clients []*attached
		for i, transport := range transports {
			a := n.attachTo(transport, id, false)
			clients = append(clients, a)
			n.Eventually("attached", func() error { // it sees only what is written once it is attached
				fmt.Fprintf(a.in, "hello %d\n", i)
				if !strings.Contains(a.out.String(), fmt.Sprintf("out hello %d\n", i)) {
					return errors.New("nothing yet")
				}
				return nil
			})
		}
		fmt.Fprintln(clients[1].in, "to all")
		for i, c := range clients {
			n.has(&c.out, "out to all\n")
			n.has(&c.errOut, "err to all\n")
			if strings.Contains(c.out.String(), "err ") || strings.Contains(c.errOut.String(), "out ") {
				t.Errorf("client %d: stdout and stderr are mixed", i)
			}
		}
		// One that leaves takes nothing with it.
		clients[0].leave()
		<-clients[0].ended
		fmt.Fprintln(clients[1].in, "end")
		for i, c := range clients[1:] {
			if err := <-c.ended; err != nil {
				t.Errorf("client %d at the container's end: %v", i+1, err)
			}
			if !strings.HasSuffix(c.out.String(), "out end\n") || !strings.HasSuffix(c.errOut.String(), "err end\n") {
				t.Errorf("client %d missed the end", i+1)
			}
		}
		if s := n.WaitExited(id); s.ExitCode != 5 {
			t.Errorf("exit code %d", s.ExitCode)
		}
		log := strings.Join(n.ContainerLog(id), "\n")
		if strings.Count(log, "out to all") != 1 || strings.Count(log, "stderr F err to all") != 1 {
			t.Errorf("log: %q", log)
		}
		_, err := n.Runtime.Attach(n.Ctx(), &runtimeapi.AttachRequest{ContainerId: id, Stdout: true})
		want(t, err, codes.FailedPrecondition, "exited")
		n.stop(id)
	})
}

// TestAttachTerminal: input, echo, size, ^C, and the container lives on when its client leaves.
func TestAttachTerminal(t *testing.T) {
	n := startStreamNode(t)
	n.flat(func() {
		for _, transport := range transports {
			id := n.run(terminal, "sh", "-c", `trap 'echo interrupted' INT; while :; do read line && eval "$line"; done`)
			sizes := make(sizeQueue, 2)
			sizes <- remotecommand.TerminalSize{Width: 111, Height: 33}
			r, in := io.Pipe()
			var out output
			ctx, leave := context.WithCancel(n.Ctx())
			ended := make(chan error, 1)
			go func() {
				ended <- n.attach(ctx, transport, id, remotecommand.StreamOptions{Stdin: r, Stdout: &out, Tty: true, TerminalSizeQueue: sizes})
			}()
			n.Eventually("the terminal has its size", func() error {
				fmt.Fprint(in, "stty size\n")
				if !strings.Contains(out.String(), "33 111\r\n") {
					return fmt.Errorf("%s: %q", transport, &out)
				}
				time.Sleep(10 * time.Millisecond) // not to fill the terminal's input
				return nil
			})
			sizes <- remotecommand.TerminalSize{Width: 99, Height: 22}
			n.Eventually("the terminal has its new size", func() error {
				fmt.Fprint(in, "stty size\n")
				if !strings.Contains(out.String(), "22 99\r\n") {
					return fmt.Errorf("%s: %q", transport, &out)
				}
				time.Sleep(10 * time.Millisecond)
				return nil
			})
			fmt.Fprint(in, "\x03")
			n.has(&out, "interrupted\r\n")
			leave()
			<-ended
			close(sizes)
			if s := n.Status(id); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
				t.Errorf("%s: the container is %v when its client has left", transport, s.State)
			}
			a := n.attachTo(transport, id, true)
			fmt.Fprint(a.in, "exit 6\n")
			if err := <-a.ended; err != nil {
				t.Errorf("%s: %v", transport, err)
			}
			if s := n.WaitExited(id); s.ExitCode != 6 {
				t.Errorf("%s: exit code %d", transport, s.ExitCode)
			}
			n.stop(id)
		}
	})
}

// TestStdinOnce: with it, the end of the first client's stdin is the end of the container's; without it, it is not.
func TestStdinOnce(t *testing.T) {
	n := startStreamNode(t)
	for _, transport := range []string{"spdy", "websocket v5"} {
		once := n.run(func(c *runtimeapi.ContainerConfig) { c.Stdin, c.StdinOnce = true, true }, "cat")
		body := strings.Repeat("0123456789abcde\n", 1<<16) // 1 MiB
		var out output
		err := n.attach(n.Ctx(), transport, once, remotecommand.StreamOptions{Stdin: strings.NewReader(body), Stdout: &out})
		if err != nil || out.String() != body {
			t.Errorf("%s: %v, %d bytes of %d", transport, err, len(out.String()), len(body))
		}
		if s := n.WaitExited(once); s.ExitCode != 0 {
			t.Errorf("%s: cat ended with %d", transport, s.ExitCode)
		}

		// A client that breaks off ends it too: nobody else may go on in the middle.
		broken := n.run(func(c *runtimeapi.ContainerConfig) { c.Stdin, c.StdinOnce = true, true }, "cat")
		a := n.attachTo(transport, broken, false)
		fmt.Fprintln(a.in, "begun")
		n.has(&a.out, "begun\n")
		a.leave()
		if s := n.WaitExited(broken); s.ExitCode != 0 {
			t.Errorf("%s: cat of a client that broke off ended with %d", transport, s.ExitCode)
		}

		more := n.run(stdin, "cat")
		for _, word := range []string{"one\n", "two\n"} {
			a := n.attachTo(transport, more, false)
			fmt.Fprint(a.in, word)
			n.has(&a.out, word)
			a.in.Close()
			a.leave()
			<-a.ended
		}
		if s := n.Status(more); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Errorf("%s: without StdinOnce the container is %v", transport, s.State)
		}
	}
}

// stuck is a client that takes nothing until it is let go.
type stuck struct {
	output
	reached atomic.Bool
	free    chan struct{}
}

func (s *stuck) Write(p []byte) (int, error) {
	s.reached.Store(true)
	<-s.free
	return s.output.Write(p)
}

// TestAttachStuckClient: a client that does not read is cut, with an error. It delays neither the container nor the log nor others.
func TestAttachStuckClient(t *testing.T) {
	n := startStreamNode(t)
	n.flat(func() {
		const lines, size = 300_000, 100 // 30 MB
		id := n.run(nil, "sh", "-c", fmt.Sprintf("until [ -e /tmp/go ]; do echo tick; sleep 0.02; done; exec stream lines %d %d 100000 4000", lines, size))
		pid := n.pidOf(id)
		var fast output
		fastEnded := make(chan error, 1)
		go func() {
			fastEnded <- n.attach(n.Ctx(), "spdy", id, remotecommand.StreamOptions{Stdout: &fast})
		}()
		var slow []*stuck
		slowEnded := make(chan error, len(transports))
		for _, transport := range transports {
			s := &stuck{free: make(chan struct{})}
			slow = append(slow, s)
			go func() {
				err := n.attach(n.Ctx(), transport, id, remotecommand.StreamOptions{Stdout: s})
				if err == nil {
					err = fmt.Errorf("%s ended without an error", transport)
				} else if strings.Contains(err.Error(), "does not keep up") {
					err = nil
				}
				slowEnded <- err
			}()
		}
		n.Eventually("all are attached", func() error {
			for i, s := range slow {
				if !s.reached.Load() {
					return errors.New(transports[i])
				}
			}
			return nil
		})
		n.has(&fast, "tick")
		started := time.Now()
		release(t, pid)
		if err := <-fastEnded; err != nil {
			t.Errorf("the fast client: %v", err)
		}
		took := time.Since(started)
		if got := strings.Count(fast.String(), "x\n"); got != lines {
			t.Errorf("the fast client got %d lines of %d", got, lines)
		}
		checkLines(t, n.Status(id).LogPath, lines, size)
		if cut := n.metric("embedcri_attach_clients_cut_total"); cut != 3 {
			t.Errorf("%v clients were cut, want 3", cut)
		}
		t.Logf("30 MB in %v beside 3 stuck clients", took.Round(time.Millisecond))
		// They are told why, if they read on within the time that they are given for that.
		for _, s := range slow {
			close(s.free)
		}
		for range slow {
			if err := <-slowEnded; err != nil {
				t.Errorf("a stuck client: %v", err)
			}
		}
		for i, s := range slow {
			got := []byte(s.String())
			if first := bytes.Index(got, []byte("0000000000 ")); first < 0 || !strings.Contains(fast.String(), string(got[first:])) {
				t.Errorf("%s: the %d bytes that it got are not the first", transports[i], len(got))
			}
		}
		n.stop(id)
	})
}
