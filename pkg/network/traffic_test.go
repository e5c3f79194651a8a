// SPDX-License-Identifier: Apache-2.0

package network_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/embedcri/embedcri/internal/namespace"
	"github.com/embedcri/embedcri/pkg/network"
)

// serve answers on an address inside of a namespace with the address of who asks.
func serve(t testing.TB, netns, proto, addr string) (port int32) {
	t.Helper()
	var err error
	switch proto {
	case "tcp":
		var l net.Listener
		if err = in(t, netns, func() (err error) { l, err = net.Listen("tcp", addr); return err }); err != nil {
			break
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
				_, _ = io.WriteString(c, host)
				c.Close()
			}
		}()
		return int32(l.Addr().(*net.TCPAddr).Port)
	case "udp":
		var c net.PacketConn
		if err = in(t, netns, func() (err error) { c, err = net.ListenPacket("udp", addr); return err }); err != nil {
			break
		}
		t.Cleanup(func() { c.Close() })
		go func() {
			buf := make([]byte, 64)
			for {
				_, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				host, _, _ := net.SplitHostPort(from.String())
				_, _ = c.WriteTo([]byte(host), from)
			}
		}()
		return int32(c.LocalAddr().(*net.UDPAddr).Port)
	}
	t.Fatal(err)
	return 0
}

// ask returns what the server at an address, seen from a namespace, answers. UDP and IPv6's
// neighbour discovery may lose the first packets: it asks again.
func ask(t testing.TB, netns, proto, host string, port int32) string {
	t.Helper()
	var answer string
	var last error
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		answer, last = askOnce(t, netns, proto, host, port, time.Second)
		if last == nil {
			return answer
		}
	}
	t.Errorf("%s %s:%d gives no answer: %v", proto, host, port, last)
	return ""
}

func askOnce(t testing.TB, netns, proto, host string, port int32, limit time.Duration) (string, error) {
	t.Helper()
	addr := net.JoinHostPort(host, fmt.Sprint(port))
	var c net.Conn
	var err error
	if proto == "tcp" {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		c, err = namespace.Dial(ctx, netns, "tcp", addr)
	} else {
		err = in(t, netns, func() (err error) { c, err = net.Dial("udp", addr); return err })
	}
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(limit))
	if proto == "udp" {
		if _, err := c.Write([]byte("?")); err != nil {
			return "", err
		}
	}
	buf := make([]byte, 64)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

// secondHost is another machine on the host's wire.
func (h *host) secondHost() (netns string) {
	h.t.Helper()
	netns = h.namespace("second-host")
	sh(h.t, h.netns, "ip link add wire0 type veth peer name wire1")
	if err := moveLink(h.netns, "wire1", netns); err != nil {
		h.t.Fatal(err)
	}
	sh(h.t, h.netns, "ip addr add 192.0.2.1/24 dev wire0; ip addr add 2001:db8::1/64 dev wire0 nodad; ip link set wire0 up")
	sh(h.t, netns, "ip addr add 192.0.2.2/24 dev wire1; ip addr add 2001:db8::2/64 dev wire1 nodad; ip link set wire1 up")
	return netns
}

// noTrace fails if a detached pod left anything on the host.
func (h *host) noTrace(o network.Options) {
	h.t.Helper()
	if links := sh(h.t, h.netns, "ip -o link show type veth | grep -v wire || true"); links != "" {
		h.t.Errorf("interfaces are left: %s", links)
	}
	for _, rule := range strings.Split(sh(h.t, h.netns, "nft list ruleset"), "\n") {
		if strings.Contains(rule, "id: ") || strings.Contains(rule, "dnat") || strings.Contains(rule, podID("")[:40]) {
			h.t.Errorf("a rule is left: %s", rule)
		}
	}
	for _, f := range files(h.t, o.Bridge.DataDir) {
		if !strings.HasSuffix(f, "/lock") && !strings.Contains(f, "/last_reserved_ip.") {
			h.t.Errorf("an address is left: %s", f)
		}
	}
	if _, err := os.Stat(o.CacheDir); err == nil {
		if left := files(h.t, o.CacheDir); len(left) != 0 {
			h.t.Errorf("the cache is not empty: %q", left)
		}
	}
}

func TestDualStack(t *testing.T) {
	h := newHost(t)
	o := bridged(t, options(t), "10.90.0.0/24", "fd90::/64")
	n := open(t, o)
	second := h.secondHost()
	sh(t, second, "ip route add 10.90.0.0/24 via 192.0.2.1; ip -6 route add fd90::/64 via 2001:db8::1")
	a, b := h.attach(n, "a"), h.attach(n, "b")
	if want := "[10.90.0.2 fd90::2] [10.90.0.3 fd90::3]"; fmt.Sprint(a.IPs, b.IPs) != want {
		t.Fatalf("IPs are %v %v, want %s", a.IPs, b.IPs, want)
	}
	for i, wild := range []string{"0.0.0.0:0", "[::]:0"} {
		for _, proto := range []string{"tcp", "udp"} {
			inB := serve(t, b.netns, proto, wild)
			if got := ask(t, h.netns, proto, b.IPs[i], inB); got != []string{"10.90.0.1", "fd90::1"}[i] {
				t.Errorf("%s host to pod %s: seen as %s", proto, b.IPs[i], got)
			}
			if got := ask(t, a.netns, proto, b.IPs[i], inB); got != a.IPs[i] {
				t.Errorf("%s pod to pod %s: seen as %s, want %s", proto, b.IPs[i], got, a.IPs[i])
			}
			away := serve(t, second, proto, wild)
			if got, want := ask(t, a.netns, proto, []string{"192.0.2.2", "2001:db8::2"}[i], away), []string{"192.0.2.1", "2001:db8::1"}[i]; got != want {
				t.Errorf("%s pod to another machine: seen as %s, want the node's %s", proto, got, want)
			}
		}
	}
	h.detach(n, a.Attachment)
	h.detach(n, b.Attachment)
	h.detach(n, b.Attachment) // idempotent
	h.noTrace(o)
}

func TestIPv6Only(t *testing.T) {
	h := newHost(t)
	o := bridged(t, options(t), "fd91::/64")
	n := open(t, o)
	second := h.secondHost()
	const hostPort = 30080
	p := h.attach(n, "six", network.PortMapping{HostPort: hostPort, ContainerPort: 8080, Protocol: "tcp"})
	if fmt.Sprint(p.IPs) != "[fd91::2]" {
		t.Fatalf("IPs are %v", p.IPs)
	}
	serve(t, p.netns, "tcp", "[::]:8080")
	if got := ask(t, h.netns, "tcp", "fd91::2", 8080); got != "fd91::1" {
		t.Errorf("host to pod: seen as %s", got)
	}
	if got := ask(t, second, "tcp", "2001:db8::1", hostPort); got != "2001:db8::2" {
		t.Errorf("host port: seen as %s", got)
	}
	h.detach(n, p.Attachment)
	h.noTrace(o)
}

func TestHostPorts(t *testing.T) {
	h := newHost(t)
	o := bridged(t, options(t), "10.92.0.0/24", "fd92::/64")
	n := open(t, o)
	second := h.secondHost()
	sh(t, h.netns, "ip addr add 192.0.2.9/24 dev wire0")
	p := h.attach(n, "server",
		network.PortMapping{HostPort: 30080, ContainerPort: 80, Protocol: "tcp"},
		network.PortMapping{HostPort: 30053, ContainerPort: 53, Protocol: "udp", HostIP: "0.0.0.0"},
		network.PortMapping{HostPort: 30081, ContainerPort: 80, Protocol: "tcp", HostIP: "192.0.2.9"},
		network.PortMapping{HostPort: 30132, ContainerPort: 132, Protocol: "sctp"},
		network.PortMapping{HostPort: 0, ContainerPort: 9999, Protocol: "tcp"},
	)
	serve(t, p.netns, "tcp", "[::]:80")
	serve(t, p.netns, "udp", "0.0.0.0:53")
	for _, c := range []struct {
		from, proto, host string
		port              int32
		seen              string
	}{
		{second, "tcp", "192.0.2.1", 30080, "::ffff:192.0.2.2"},
		{second, "tcp", "2001:db8::1", 30080, "2001:db8::2"},
		{second, "udp", "192.0.2.1", 30053, "192.0.2.2"},
		{second, "tcp", "192.0.2.9", 30081, "::ffff:192.0.2.2"},
		{h.netns, "tcp", "192.0.2.1", 30080, ""}, // from the node itself
		{h.netns, "tcp", "127.0.0.1", 30080, ""}, // through its loopback
		{p.netns, "tcp", "192.0.2.1", 30080, ""}, // the pod, through its own host port
	} {
		got := ask(t, c.from, c.proto, c.host, c.port)
		if c.seen != "" && strings.TrimPrefix(got, "::ffff:") != strings.TrimPrefix(c.seen, "::ffff:") {
			t.Errorf("%s %s:%d: seen as %s, want %s", c.proto, c.host, c.port, got, c.seen)
		}
	}
	if got, err := askOnce(t, second, "tcp", "192.0.2.1", 30081, 200*time.Millisecond); err == nil {
		t.Errorf("a mapping of another host IP answers %s", got)
	}
	if rules := sh(t, h.netns, "nft list ruleset"); !strings.Contains(rules, "sctp dport 30132") || strings.Contains(rules, "9999") {
		t.Errorf("rules are %s", rules)
	}
	h.detach(n, p.Attachment)
	h.noTrace(o)
	if got, err := askOnce(t, second, "tcp", "192.0.2.1", 30080, 200*time.Millisecond); err == nil {
		t.Errorf("the host port of a detached pod answers %s", got)
	}
}

// TestNamespaceGone detaches a pod whose namespace nobody can enter any more.
func TestNamespaceGone(t *testing.T) {
	h := newHost(t)
	o := bridged(t, options(t), "10.93.0.0/24")
	n := open(t, o)
	p := h.attach(n, "gone", network.PortMapping{HostPort: 30080, ContainerPort: 80, Protocol: "tcp"})
	if err := namespace.Delete(h.dir + "/gone"); err != nil {
		t.Fatal(err)
	}
	h.detach(n, p.Attachment)
	// The kernel destroys the namespace, and with it the veth pair, on its own time.
	eventually(t, "veth gone", func() bool { return sh(t, h.netns, "ip -o link show type veth") == "" })
	h.noTrace(o)
}

// TestChurn attaches and detaches pods, several at a time, and cancels some on the way.
func TestChurn(t *testing.T) {
	h := newHost(t)
	o := bridged(t, options(t), "10.94.0.0/24", "fd94::/64")
	o.MaxParallel = 4
	n := open(t, o)
	const pods, at = 24, 8
	work := make(chan int)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var attached, cancelled int
	for range at {
		wg.Go(func() {
			for i := range work {
				name := fmt.Sprintf("pod-%d", i)
				dir := h.dir + "/" + name
				ns, err := namespace.Create(dir, namespace.Spec{Net: true})
				if err != nil {
					t.Error(err)
					continue
				}
				a, err := n.Plan(network.Pod{ID: podID(name), Name: name, Namespace: "d", UID: "u", NetNS: ns.Net,
					PortMappings: []network.PortMapping{{HostPort: int32(31000 + i), ContainerPort: 80, Protocol: "tcp"}}})
				if err != nil {
					t.Error(err)
					continue
				}
				ctx, cancel := t.Context(), context.CancelFunc(func() {})
				if i%2 == 1 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(60))*time.Millisecond)
				}
				err = in(t, h.netns, func() error { return n.Attach(ctx, a) })
				cancel()
				mu.Lock()
				switch {
				case err == nil:
					attached++
				case errors.Is(err, context.DeadlineExceeded):
					cancelled++
				default:
					t.Errorf("attach %s: %v", name, err)
				}
				mu.Unlock()
				h.detach(n, a)
				if err := namespace.Delete(dir); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range pods {
		work <- i
	}
	close(work)
	wg.Wait()
	t.Logf("%d attached, %d cancelled", attached, cancelled)
	if attached < pods/2 {
		t.Errorf("%d of %d pods were attached, want those that nobody cancelled", attached, pods/2)
	}
	eventually(t, "veth gone", func() bool { return sh(t, h.netns, "ip -o link show type veth") == "" })
	h.noTrace(o)
}

func TestRemoveBridge(t *testing.T) {
	h := newHost(t)
	o := bridged(t, options(t), "10.95.0.0/24", "fd95::/64")
	n := open(t, o)
	p := h.attach(n, "last", network.PortMapping{HostPort: 30080, ContainerPort: 80, Protocol: "tcp"})
	remove := func() error {
		return in(t, h.netns, func() error { return o.Bridge.Remove(t.Context()) })
	}
	if err := remove(); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("with a pod on it: %v", err)
	}
	if got := sh(t, h.netns, "nft list tables"); !strings.Contains(got, "cni_hostport") {
		t.Errorf("tables are %s", got)
	}
	h.detach(n, p.Attachment)
	for range 2 {
		if err := remove(); err != nil {
			t.Error(err)
		}
	}
	if got := sh(t, h.netns, "nft list tables | grep cni || true; ip -o link show type bridge"); got != "" {
		t.Errorf("left: %s", got)
	}
	if left := files(t, o.Bridge.DataDir); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}
