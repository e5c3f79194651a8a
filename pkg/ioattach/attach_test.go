// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// sink is a client's writer that remembers, and may be slowed down or stuck.
type sink struct {
	mu     sync.Mutex
	buf    bytes.Buffer
	closed bool
	stuck  chan struct{} // Write waits for it if set
}

func (s *sink) Write(b []byte) (int, error) {
	if s.stuck != nil {
		<-s.stuck
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(b)
}

func (s *sink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// attach runs Attach and waits until the client is in.
func attach(t testing.TB, ctx context.Context, st *Streams, c Client) chan error {
	t.Helper()
	st.mu.Lock()
	before := len(st.clients)
	st.mu.Unlock()
	done := make(chan error, 1)
	go func() { done <- st.Attach(ctx, c) }()
	await(t, func() bool {
		st.mu.Lock()
		defer st.mu.Unlock()
		return len(st.clients) > before || len(done) > 0
	})
	return done
}

func result(t testing.TB, done chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("attach does not end")
		return nil
	}
}

func TestAttachFollowsOutput(t *testing.T) {
	n := newNode(t, HubOptions{})
	st := n.create("c", Options{Stdin: true})
	cmd := start(t, st, `read a; echo "out $a"; echo "err $a" >&2; read b; echo "out $b"`)
	pr, pw := io.Pipe()
	var out, errs, out2 sink
	first := attach(t, t.Context(), st, Client{Stdin: pr, Stdout: &out, Stderr: &errs})
	fmt.Fprintln(pw, "one")
	await(t, func() bool { return out.String() == "out one\n" && errs.String() == "err one\n" })
	second := attach(t, t.Context(), st, Client{Stdout: &out2})
	fmt.Fprintln(pw, "two")
	drain(t, st, cmd)
	// The client still keeps its stdin open: the attach ends all the same.
	for _, done := range []chan error{first, second} {
		if err := result(t, done); err != nil {
			t.Error(err)
		}
	}
	if out.String() != "out one\nout two\n" || errs.String() != "err one\n" || !out.closed || !errs.closed {
		t.Errorf("first client got %q, %q", out.String(), errs.String())
	}
	if out2.String() != "out two\n" {
		t.Errorf("second client got %q: no history, only what follows", out2.String())
	}
	if got := output(readLog(t, n.log("c")), "stdout"); got != "out one\nout two\n" {
		t.Errorf("log %q", got)
	}
	if err := st.Attach(t.Context(), Client{Stdout: &out}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("attach to a dead process: %v", err)
	}
	_ = pw.Close()
}

// TestStuckClientIsCut has one client that takes nothing and one that takes everything. What is written is never more ahead of the
// latter than its buffer, however busy the machine is.
func TestStuckClientIsCut(t *testing.T) {
	n := newNode(t, HubOptions{ClientBuffer: 1 << 20})
	st := n.create("c", Options{})
	stdio, err := st.Stdio()
	must(t, err)
	w := dupFile(t, stdio.Stdout)
	must(t, st.Started())
	stuck := &sink{stuck: make(chan struct{})}
	defer close(stuck.stuck)
	var good sink
	hung := attach(t, t.Context(), st, Client{Stdout: stuck})
	flowing := attach(t, t.Context(), st, Client{Stdout: &good})
	block := strings.Repeat(strings.Repeat("x", 99)+"\n", 1000)
	const blocks = 20 // 2 MB
	for i := range blocks {
		_, err := io.WriteString(w, block)
		must(t, err)
		await(t, func() bool { return len(good.String()) == (i+1)*len(block) })
	}
	if err := result(t, hung); !errors.Is(err, ErrSlow) || !errdefs.IsResourceExhausted(err) {
		t.Errorf("stuck client got %v", err)
	}
	must(t, w.Close())
	drain(t, st, nil)
	if err := result(t, flowing); err != nil {
		t.Error(err)
	}
	want := strings.Repeat(block, blocks)
	if out := good.String(); out != want {
		t.Errorf("the other client got %d bytes, want %d", len(out), len(want))
	}
	if out := output(readLog(t, n.log("c")), "stdout"); out != want {
		t.Errorf("the log has %d bytes, want %d", len(out), len(want))
	}
	if s := n.hub.Stats(); s.CutClients != 1 {
		t.Errorf("stats %+v", s)
	}
}

func TestStdinOnce(t *testing.T) {
	for _, once := range []bool{true, false} {
		t.Run(fmt.Sprint(once), func(t *testing.T) {
			n := newNode(t, HubOptions{})
			st := n.create("c", Options{Stdin: true, StdinOnce: once})
			cmd := start(t, st, `while read x; do echo "got $x"; done; echo end`)
			var out sink
			watch := attach(t, t.Context(), st, Client{Stdout: &out})
			ctx, cancel := context.WithCancel(t.Context())
			done := attach(t, ctx, st, Client{Stdin: strings.NewReader("a\n")})
			await(t, func() bool { return strings.Contains(out.String(), "got a\n") })
			if once {
				drain(t, st, cmd)
				if err := result(t, done); err != nil {
					t.Error(err)
				}
			} else {
				cancel()
				if err := result(t, done); !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				ctx, cancel = context.WithCancel(t.Context())
				done = attach(t, ctx, st, Client{Stdin: strings.NewReader("b\n")})
				await(t, func() bool { return strings.Contains(out.String(), "got b\n") })
				if strings.Contains(out.String(), "end") {
					t.Error("stdin was closed")
				}
				cancel()
				_ = result(t, done)
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				drain(t, st, cmd)
			}
			cancel()
			_ = result(t, watch)
			if want := map[bool]string{true: "got a\nend\n", false: "got a\ngot b\n"}[once]; out.String() != want {
				t.Errorf("output %q, want %q", out.String(), want)
			}
		})
	}
}

// TestExecIsLossless sends 100 MB through stdin to a slow client on stdout.
func TestExecIsLossless(t *testing.T) {
	n := newNode(t, HubOptions{ClientBuffer: 1 << 20})
	st := n.create("e", Options{Exec: true, Stdin: true})
	const size = 100 << 20
	in, out := md5.New(), md5.New()
	var got int
	pr, pw := io.Pipe()
	done := attach(t, t.Context(), st, Client{
		Stdin: io.TeeReader(io.LimitReader(pattern{}, size), in), Stdout: pw,
	})
	read := make(chan error, 1)
	go func() {
		buf := make([]byte, 100_000)
		for {
			k, err := pr.Read(buf)
			out.Write(buf[:k])
			got += k
			if err != nil {
				read <- err
				return
			}
		}
	}()
	cmd := start(t, st, "cat")
	drain(t, st, cmd)
	if err := result(t, done); err != nil {
		t.Error(err)
	}
	if err := <-read; err != io.EOF {
		t.Error(err)
	}
	if got != size || !bytes.Equal(in.Sum(nil), out.Sum(nil)) {
		t.Errorf("%d bytes came back of %d, sums %x %x", got, size, in.Sum(nil), out.Sum(nil))
	}
}

// pattern is endless bytes that differ.
type pattern struct{}

func (pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(i * 7)
	}
	return len(b), nil
}

func TestExecOutputWaitsForClient(t *testing.T) {
	n := newNode(t, HubOptions{})
	st := n.create("e", Options{Exec: true})
	cmd := start(t, st, "echo early")
	_ = cmd.Wait()
	var out sink
	done := attach(t, t.Context(), st, Client{Stdout: &out})
	drain(t, st, nil)
	if err := result(t, done); err != nil || out.String() != "early\n" {
		t.Errorf("%v, %q", err, out.String())
	}
}

// TestJoinedClientGetsEverything: a client that has joined gets all of a process that is over before anybody serves the client.
func TestJoinedClientGetsEverything(t *testing.T) {
	for _, exec := range []bool{true, false} {
		n := newNode(t, HubOptions{})
		st := n.create("e", Options{Exec: exec})
		var out, errOut sink
		a, err := st.Join(Client{Stdout: &out, Stderr: &errOut})
		if err != nil {
			t.Fatal(err)
		}
		drain(t, st, start(t, st, "echo out; echo err >&2"))
		if err := a.Serve(t.Context()); err != nil || out.String() != "out\n" || errOut.String() != "err\n" {
			t.Errorf("exec %v: %v, %q, %q", exec, err, out.String(), errOut.String())
		}
		if !out.closed || !errOut.closed {
			t.Errorf("exec %v: the client's writers are open", exec)
		}
	}
}
