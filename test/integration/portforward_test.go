// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"k8s.io/apimachinery/pkg/util/httpstream"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testnode"
)

// forwarders are the ways in which client-go forwards ports.
var forwarders = map[string]func(u *url.URL) (httpstream.Dialer, error){
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
}

// forward forwards ports of a pod as kubectl port-forward does, and returns the addresses on this side.
func forward(t *testing.T, n *testnode.Node, transport, pod string, ports ...string) (local []string, stop func()) {
	t.Helper()
	r, err := n.Runtime.PortForward(n.Ctx(), &runtimeapi.PortForwardRequest{PodSandboxId: pod})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(r.Url)
	if err != nil {
		t.Fatal(err)
	}
	d, err := forwarders[transport](u)
	if err != nil {
		t.Fatal(err)
	}
	quit, ready, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	var specs []string
	for _, p := range ports {
		specs = append(specs, "0:"+p)
	}
	f, err := portforward.NewOnAddresses(d, []string{"127.0.0.1"}, specs, quit, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	go func() { ended <- f.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	got, err := f.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range got {
		local = append(local, fmt.Sprintf("127.0.0.1:%d", p.Local))
	}
	return local, func() { close(quit); <-ended }
}

// both sends size bytes to an echo and reads them back at the same time.
func both(addr string, size int64, seed byte) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
	sent := make(chan error, 1)
	var sum hash.Hash
	go func() {
		h := sha256.New()
		_, err := io.CopyN(io.MultiWriter(c, h), rand.NewChaCha8([32]byte{seed}), size)
		sum = h
		sent <- errors.Join(err, c.(*net.TCPConn).CloseWrite())
	}()
	got := sha256.New()
	back, rerr := io.Copy(got, c) // to the end that the echo makes when it has seen ours
	if err := errors.Join(<-sent, rerr); err != nil {
		return err
	}
	if back != size || !bytes.Equal(got.Sum(nil), sum.Sum(nil)) {
		return fmt.Errorf("%d bytes of %d came back, or they are damaged", back, size)
	}
	return nil
}

// TestPortForward forwards ports of a pod with a network of its own and of one on the host's.
func TestPortForward(t *testing.T) {
	n := &streamNode{t: t}
	addr := freeAddress(t)
	n.Node = testnode.Start(t, testnode.Options{Config: fmt.Sprintf("[metrics]\naddress = %q\n", addr)})
	n.metrics, n.ref = "http://"+addr+"/metrics", registry.Ref(t, "stream:1")
	n.Pull(n.ref)
	for _, host := range []bool{false, true} {
		name, pc := "own network", n.PodConfig()
		if host {
			name, pc = "host network", n.HostPodConfig()
		}
		pod := n.RunPod(pc)
		ports := []string{"7101", "7102", "7103"}
		if host { // not to meet anybody else on this machine
			for i := range ports {
				_, ports[i], _ = net.SplitHostPort(freeAddress(t))
			}
		}
		id := n.Run(pod, pc, n.ContainerConfig(n.ref, "sh", "-c",
			fmt.Sprintf("stream serve 127.0.0.1:%s & stream sum [::1]:%s & wait", ports[0], ports[1])))
		n.Eventually("the ports are open", func() error {
			if l := n.ContainerLog(id); len(l) < 2 {
				return fmt.Errorf("log %q", l)
			}
			return nil
		})
		for transport := range forwarders {
			t.Run(name+"/"+transport, func(t *testing.T) {
				n.flat(func() { n.forwardOver(t, transport, pod, ports, host) })
			})
		}
		if err := n.Runtime.StopPodSandbox(n.Ctx(), pod); err != nil {
			t.Fatal(err)
		}
		_, err := n.Runtime.PortForward(n.Ctx(), &runtimeapi.PortForwardRequest{PodSandboxId: pod})
		want(t, err, codes.FailedPrecondition, "not ready")
	}
	_, err := n.Runtime.PortForward(n.Ctx(), &runtimeapi.PortForwardRequest{PodSandboxId: strings.Repeat("ab", 32)})
	want(t, err, codes.NotFound, "abab")
}

func (n *streamNode) forwardOver(t *testing.T, transport, pod string, ports []string, host bool) {
	local, stop := forward(t, n.Node, transport, pod, ports...)
	defer stop()

	size := int64(200_000_000)
	if host {
		size = 20_000_000
	}
	started := time.Now()
	if err := both(local[0], size, 1); err != nil {
		t.Errorf("both ways at once: %v", err)
	}
	t.Logf("%d MB both ways at once: %.0f MB/s each way", size/1e6, float64(size)/1e6/time.Since(started).Seconds())

	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if err := both(local[0], 500_000, byte(i)); err != nil {
				t.Errorf("connection %d of 50: %v", i, err)
			}
		})
	}
	wg.Wait()

	// IPv6 only, and it answers when it has seen the end: a half-closed connection.
	c, err := net.Dial("tcp", local[1])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := c.Write(make([]byte, 123_456)); err != nil {
		t.Error(err)
	}
	_ = c.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(c); string(b) != "123456\n" {
		t.Errorf("half-closed connection over IPv6: %q, %v", b, err)
	}

	// Nobody listens on the third.
	r, err := net.Dial("tcp", local[2])
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	_ = r.SetDeadline(time.Now().Add(30 * time.Second))
	if b, err := io.ReadAll(r); len(b) != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a port without a listener answers %q, %v", b, err)
	}
}
