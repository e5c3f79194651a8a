// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/httpstream"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// podServer listens where Dial leads, and answers each connection with f.
func podServer(t *testing.T, p *fakePod, f func(*net.TCPConn)) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); f(c.(*net.TCPConn)) }()
		}
	}()
	p.dial = func(ctx context.Context, port int) (net.Conn, error) {
		if port != 8080 {
			return nil, fmt.Errorf("dial port %d: connection refused", port)
		}
		return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	}
}

func TestPortForwardSession(t *testing.T) {
	for name, dialer := range map[string]func(u *url.URL) (httpstream.Dialer, error){
		"spdy": func(u *url.URL) (httpstream.Dialer, error) {
			rt, up, err := spdy.RoundTripperFor(&restclient.Config{})
			if err != nil {
				return nil, err
			}
			return spdy.NewDialer(up, &http.Client{Transport: rt}, http.MethodPost, u), nil
		},
		"spdy over websocket": func(u *url.URL) (httpstream.Dialer, error) {
			return portforward.NewSPDYOverWebsocketDialer(u, &restclient.Config{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			pods, p, _ := node()
			rt, _, _, _ := serve(t, pods, &fakeImages{})
			// It answers when it has all: without a half-close it would never answer.
			podServer(t, p, func(c *net.TCPConn) {
				b, _ := io.ReadAll(c)
				_, _ = c.Write(bytes.ToUpper(b))
			})
			resp, err := rt.PortForward(t.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: podID})
			if err != nil {
				t.Fatal(err)
			}
			d, err := dialer(parse(t, resp.Url))
			if err != nil {
				t.Fatal(err)
			}
			local := forwardPorts(t, d, "8080", "9090")

			sent := bytes.Repeat([]byte("abcdefgh"), 1<<16)
			done := make(chan error, 8)
			for range cap(done) {
				go func() { done <- exchange(local[0], sent) }()
			}
			for range cap(done) {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
			c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", local[1]))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(patience))
			if b, err := io.ReadAll(c); len(b) != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a closed port answers %q, %v", b, err)
			}
		})
	}
}

func exchange(port uint16, sent []byte) error {
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(sent); err != nil {
		return err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, bytes.ToUpper(sent)) {
		return fmt.Errorf("%d bytes of %d, %w", len(got), len(sent), err)
	}
	return nil
}

// TestForwardEnds: a connection ends when both directions have, when the client is gone, or when what is left of it is silent.
func TestForwardEnds(t *testing.T) {
	pair := func(t *testing.T) (here, there net.Conn) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		here, err = net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		there, err = l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = here.Close(); _ = there.Close() })
		return here, there
	}
	start := func(t *testing.T, linger time.Duration) (pod, client net.Conn, leave func(), done chan error) {
		ours, pod := pair(t)
		stream, client := pair(t)
		ctx, cancel := context.WithCancel(t.Context())
		done = make(chan error, 1)
		go func() { done <- forward(ctx, ours, stream, linger) }()
		return pod, client, cancel, done
	}
	wait := func(t *testing.T, done chan error) {
		t.Helper()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Fatal("it does not end")
		}
	}
	t.Run("both ways", func(t *testing.T) {
		pod, client, _, done := start(t, time.Hour)
		_ = client.(*net.TCPConn).CloseWrite()
		_, _ = io.ReadAll(pod)
		_ = pod.Close()
		wait(t, done)
	})
	t.Run("client gone", func(t *testing.T) {
		_, _, leave, done := start(t, time.Hour)
		leave()
		wait(t, done)
	})
	t.Run("silent", func(t *testing.T) {
		_, client, _, done := start(t, 20*time.Millisecond)
		_ = client.(*net.TCPConn).CloseWrite()
		wait(t, done)
	})
}

// forwardPorts runs client-go's port forwarder and returns the local ports.
func forwardPorts(t *testing.T, dialer httpstream.Dialer, remote ...string) []uint16 {
	t.Helper()
	stop, ready, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	for i := range remote {
		remote[i] = "0:" + remote[i]
	}
	f, err := portforward.New(dialer, remote, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	go func() { ended <- f.ForwardPorts() }()
	t.Cleanup(func() { close(stop); <-ended })
	select {
	case <-ready:
	case err := <-ended:
		ended <- err
		t.Fatalf("port-forward: %v", err)
	case <-time.After(patience):
		t.Fatal("port-forward does not begin")
	}
	ports, err := f.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	var local []uint16
	for _, p := range ports {
		local = append(local, p.Local)
	}
	return local
}
