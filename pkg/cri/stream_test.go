// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	clientexec "k8s.io/client-go/util/exec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/pkg/ioattach"
	"github.com/embedcri/embedcri/pkg/sandbox"
	"github.com/embedcri/embedcri/pkg/task"
)

// The clients here are client-go's: what kubectl, the kubelet and crictl use.

const patience = 10 * time.Second

var transports = map[string]func(t *testing.T, u string, c *restclient.Config) remotecommand.Executor{
	"spdy": func(t *testing.T, u string, c *restclient.Config) remotecommand.Executor {
		e, err := remotecommand.NewSPDYExecutor(c, http.MethodPost, parse(t, u))
		if err != nil {
			t.Fatal(err)
		}
		return e
	},
	"websocket v5": func(t *testing.T, u string, c *restclient.Config) remotecommand.Executor {
		e, err := remotecommand.NewWebSocketExecutor(c, http.MethodGet, u)
		if err != nil {
			t.Fatal(err)
		}
		return e
	},
	"websocket v4": func(t *testing.T, u string, c *restclient.Config) remotecommand.Executor {
		e, err := remotecommand.NewWebSocketExecutorForProtocols(c, http.MethodGet, u, "v4.channel.k8s.io")
		if err != nil {
			t.Fatal(err)
		}
		return e
	},
}

func parse(t *testing.T, u string) *url.URL {
	t.Helper()
	parsed, err := url.Parse(u)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestExecSession(t *testing.T) {
	for name, executor := range transports {
		t.Run(name, func(t *testing.T) {
			pods, _, c := node()
			rt, _, _, _ := serve(t, pods, &fakeImages{})
			c.exec = func(_ context.Context, r sandbox.ExecRequest) (int32, error) {
				fmt.Fprintf(r.Stderr, "%s", strings.Join(r.Cmd, " "))
				if r.Stdin == nil { // v4 cannot end it: only SPDY and v5 are asked to
					return 7, nil
				}
				_, err := io.Copy(r.Stdout, r.Stdin)
				return 7, err
			}
			withStdin := name != "websocket v4"
			resp, err := rt.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: ctrID, Cmd: []string{"cat", "-"}, Stdin: withStdin, Stdout: true, Stderr: true})
			if err != nil {
				t.Fatal(err)
			}
			sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
			var in io.Reader
			if withStdin {
				in = bytes.NewReader(sent)
			} else {
				sent = nil
			}
			var out, errOut bytes.Buffer
			err = executor(t, resp.Url, &restclient.Config{}).StreamWithContext(within(t), remotecommand.StreamOptions{Stdin: in, Stdout: &out, Stderr: &errOut})
			var code clientexec.CodeExitError
			if !errors.As(err, &code) || code.Code != 7 {
				t.Errorf("exit code: %v", err)
			}
			if !bytes.Equal(out.Bytes(), sent) || errOut.String() != "cat -" {
				t.Errorf("%d bytes on stdout, %q on stderr", out.Len(), errOut.String())
			}
		})
	}
}

func TestExecSessionFails(t *testing.T) {
	for name, executor := range transports {
		t.Run(name, func(t *testing.T) {
			pods, _, c := node()
			rt, _, _, _ := serve(t, pods, &fakeImages{})
			c.exec = func(context.Context, sandbox.ExecRequest) (int32, error) {
				return 0, errors.New("exec: no such file or directory")
			}
			resp, err := rt.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: ctrID, Cmd: []string{"nope"}, Stdout: true})
			if err != nil {
				t.Fatal(err)
			}
			err = executor(t, resp.Url, &restclient.Config{}).StreamWithContext(within(t), remotecommand.StreamOptions{Stdout: io.Discard})
			if err == nil || !strings.Contains(err.Error(), "no such file or directory") {
				t.Errorf("%v", err)
			}
		})
	}
}

type oneSize struct{ sizes []remotecommand.TerminalSize }

func (o *oneSize) Next() *remotecommand.TerminalSize {
	if len(o.sizes) == 0 {
		return nil
	}
	s := o.sizes[0]
	o.sizes = o.sizes[1:]
	return &s
}

func TestAttachSessionWithTerminal(t *testing.T) {
	for name, executor := range transports {
		t.Run(name, func(t *testing.T) {
			pods, _, c := node()
			rt, _, _, _ := serve(t, pods, &fakeImages{})
			c.attach = func(ctx context.Context, client ioattach.Client) error {
				if client.Stdin != nil || client.Stderr != nil {
					return fmt.Errorf("streams that nobody asked for: stdin %v, stderr %v", client.Stdin, client.Stderr)
				}
				select {
				case s := <-client.Resize:
					fmt.Fprintf(client.Stdout, "%dx%d", s.Width, s.Height)
				case <-ctx.Done():
				}
				return nil
			}
			resp, err := rt.Attach(t.Context(), &runtimeapi.AttachRequest{ContainerId: ctrID, Stdout: true, Tty: true})
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			err = executor(t, resp.Url, &restclient.Config{}).StreamWithContext(within(t), remotecommand.StreamOptions{
				Stdout: &out, Tty: true, TerminalSizeQueue: &oneSize{[]remotecommand.TerminalSize{{}, {Width: 100, Height: 40}}},
			})
			if err != nil || out.String() != "100x40" {
				t.Errorf("%q, %v", out.String(), err)
			}
		})
	}
}

// TestClientLeaves: what a client began learns that the client is gone, although nothing is being written to it.
func TestClientLeaves(t *testing.T) {
	for name, executor := range transports {
		t.Run(name, func(t *testing.T) {
			pods, _, c := node()
			rt, _, _, _ := serve(t, pods, &fakeImages{})
			began, ended := make(chan struct{}), make(chan struct{})
			c.exec = func(ctx context.Context, _ sandbox.ExecRequest) (int32, error) {
				close(began)
				<-ctx.Done()
				close(ended)
				return 0, ctx.Err()
			}
			resp, err := rt.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: ctrID, Cmd: []string{"sleep"}, Stdout: true})
			if err != nil {
				t.Fatal(err)
			}
			ctx, leave := context.WithCancel(t.Context())
			go executor(t, resp.Url, &restclient.Config{}).StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: io.Discard})
			<-began
			leave()
			select {
			case <-ended:
			case <-time.After(patience):
				t.Fatal("the exec never hears of it")
			}
		})
	}
}

func TestTokens(t *testing.T) {
	now := time.Unix(1000, 0)
	tk := newTokens(time.Minute, 2)
	tk.now = func() time.Time { return now }
	put := func() string {
		token, err := tk.put(session{kind: execSession, id: ctrID})
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	a := put()
	if _, ok := tk.take(a, attachSession); ok {
		t.Error("an exec's token attaches")
	}
	if s, ok := tk.take(a, execSession); !ok || s.id != ctrID {
		t.Error("a good token is refused")
	}
	if _, ok := tk.take(a, execSession); ok {
		t.Error("a token works twice")
	}
	b, c := put(), put()
	if b == c {
		t.Error("twins")
	}
	if _, err := tk.put(session{}); codeOf(err) != codes.ResourceExhausted {
		t.Errorf("more sessions than may wait: %v", err)
	}
	now = now.Add(time.Minute)
	if _, ok := tk.take(b, execSession); ok {
		t.Error("an old token works")
	}
	put() // those that have expired make room
}

// TestExpiredSession: who comes too late is told so, by each protocol, and nothing is run.
func TestExpiredSession(t *testing.T) {
	pods, _, c := node()
	c.exec = func(context.Context, sandbox.ExecRequest) (int32, error) {
		t.Error("the command of an expired session is run")
		return 0, nil
	}
	rt, _, s, _ := serve(t, pods, &fakeImages{}, func(o *Options) { o.Streaming.TokenTTL = time.Nanosecond })
	for name, executor := range transports {
		resp, err := rt.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: ctrID, Cmd: []string{"x"}, Stdout: true})
		if err != nil {
			t.Fatal(err)
		}
		err = executor(t, resp.Url, &restclient.Config{}).StreamWithContext(within(t), remotecommand.StreamOptions{Stdout: io.Discard})
		if err == nil || !strings.Contains(err.Error(), "has expired") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(s.streaming.tokens.entries); n > 0 {
		t.Errorf("%d expired sessions are kept", n)
	}
}

func TestSessionOverHTTP(t *testing.T) {
	pods, _, c := node()
	rt, _, _, _ := serve(t, pods, &fakeImages{})
	get := func(u string) (int, string) {
		t.Helper()
		r, err := http.Get(u)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		return r.StatusCode, string(b)
	}
	resp, err := rt.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: ctrID, Cmd: []string{"x"}, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	if host := parse(t, resp.Url).Hostname(); host != "127.0.0.1" {
		t.Errorf("URL on %s", host)
	}
	if code, body := get(resp.Url); code == http.StatusNotFound {
		t.Errorf("first use: %d %s", code, body)
	}
	if code, body := get(resp.Url); code != http.StatusNotFound || !strings.Contains(body, "used") {
		t.Errorf("second use: %d %s", code, body)
	}
	resp, err = rt.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: ctrID, Cmd: []string{"x"}, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	pods.pods = nil
	if code, _ := get(resp.Url); code != http.StatusNotFound {
		t.Errorf("container gone: %d", code)
	}
	_ = c
}

func TestStreamingCallsRefuse(t *testing.T) {
	pods, p, c := node()
	rt, _, _, _ := serve(t, pods, &fakeImages{})
	ctx := t.Context()
	exec := func(r *runtimeapi.ExecRequest) error {
		r.ContainerId = ctrID
		_, err := rt.Exec(ctx, r)
		return err
	}
	wantCode(t, "no command", exec(&runtimeapi.ExecRequest{Stdout: true}), codes.InvalidArgument)
	wantCode(t, "no stream", exec(&runtimeapi.ExecRequest{Cmd: []string{"x"}}), codes.InvalidArgument)
	wantCode(t, "tty and stderr", exec(&runtimeapi.ExecRequest{Cmd: []string{"x"}, Stderr: true, Tty: true}), codes.InvalidArgument)
	_, err := rt.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: podID, Port: []int32{80, 70000}})
	wantCode(t, "port", err, codes.InvalidArgument)
	for _, st := range []task.Status{{State: task.Created}, {State: task.Exited}, {State: task.Unknown}, {State: task.Running, Paused: true}} {
		c.status = st
		wantCode(t, "exec while "+st.State.String(), exec(&runtimeapi.ExecRequest{Cmd: []string{"x"}, Stdout: true}), codes.FailedPrecondition)
		_, err := rt.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: ctrID, Stdout: true})
		wantCode(t, "attach while "+st.State.String(), err, codes.FailedPrecondition)
	}
	p.status.Ready = false
	_, err = rt.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: podID})
	wantCode(t, "port-forward to a stopped pod", err, codes.FailedPrecondition)
}

// TestStopCutsSessions: an upgraded connection is none of net/http's business any more, but must not outlive the server.
func TestStopCutsSessions(t *testing.T) {
	pods, _, c := node()
	s, err := newServer(Options{Version: "1"}, pods, &fakeImages{})
	if err != nil {
		t.Fatal(err)
	}
	go s.streaming.serve(new(logLines).logger(0))
	began, ended := make(chan struct{}), make(chan struct{})
	c.exec = func(ctx context.Context, _ sandbox.ExecRequest) (int32, error) {
		close(began)
		<-ctx.Done()
		close(ended)
		return 0, ctx.Err()
	}
	resp, err := s.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: ctrID, Cmd: []string{"sleep"}, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	client := make(chan error, 1)
	go func() {
		client <- transports["spdy"](t, resp.Url, &restclient.Config{}).StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard})
	}()
	<-began
	s.Close()
	for _, ch := range []func() bool{
		func() bool {
			select {
			case <-ended:
				return true
			case <-time.After(patience):
				return false
			}
		},
		func() bool {
			select {
			case <-client:
				return true
			case <-time.After(patience):
				return false
			}
		},
	} {
		if !ch() {
			t.Fatal("the session goes on")
		}
	}
}
