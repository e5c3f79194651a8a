// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/namespace"
	"github.com/embedcri/embedcri/internal/testenv"
	"github.com/embedcri/embedcri/internal/testnode"
)

// TestPodTraffic sends packets every way that a pod's packets go: between pods, to and from the node, through host ports from
// another machine, out to that machine; IPv4 and IPv6; before and after the daemon was killed.
func TestPodTraffic(t *testing.T) {
	n := testnode.Start(t, testnode.Options{OwnNet: true})
	busybox, httpd := imageInside(t, n, "busybox:1"), imageInside(t, n, "httpd:1")
	second := n.SecondHost()
	n.Sh(n.NetNS, "ip addr add 192.0.2.9/24 dev wire0")

	server := n.PodConfig()
	server.PortMappings = []*runtimeapi.PortMapping{
		{HostPort: 30080, ContainerPort: 8080},
		{HostPort: 30081, ContainerPort: 8080, HostIp: "192.0.2.9"},
		{HostPort: 30053, ContainerPort: 53, Protocol: runtimeapi.Protocol_UDP},
		{HostPort: 30132, ContainerPort: 132, Protocol: runtimeapi.Protocol_SCTP},
		{HostPort: 0, ContainerPort: 9999},
	}
	serverPod := n.RunPod(server)
	n.Run(serverPod, server, n.ContainerConfig(httpd))
	ps, err := n.Runtime.PodSandboxStatus(n.Ctx(), serverPod, true)
	if err != nil {
		t.Fatal(err)
	}
	ip4, ip6 := ps.Status.Network.Ip, ps.Status.Network.AdditionalIps[0].Ip
	serverNet := fmt.Sprintf("%s/ns/%s/net", n.State, serverPod)
	echoUDP(t, serverNet, ":53")

	client := n.PodConfig()
	clientPod := n.RunPod(client)
	ctr := n.Run(clientPod, client, n.ContainerConfig(busybox, "sleep", "1000"))

	node, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	host := n.HostPodConfig()
	hostServer := n.ContainerConfig(httpd)
	hostServer.Args = []string{":8090"}
	n.Run(n.RunPod(host), host, hostServer)

	whoAsks := serveAddresses(t, second)
	check := func() {
		t.Helper()
		for _, c := range []struct{ what, netns, url, want string }{
			{"node to pod", n.NetNS, "http://" + ip4 + ":8080", server.Hostname},
			{"node to pod, IPv6", n.NetNS, "http://[" + ip6 + "]:8080", server.Hostname},
			{"host port from another machine", second, "http://192.0.2.1:30080", server.Hostname},
			{"host port from another machine, IPv6", second, "http://[2001:db8::1]:30080", server.Hostname},
			{"host port of one address", second, "http://192.0.2.9:30081", server.Hostname},
			{"host port from the node itself", n.NetNS, "http://192.0.2.1:30080", server.Hostname},
			{"host port through the node's loopback", n.NetNS, "http://127.0.0.1:30080", server.Hostname},
			{"host port from the pod itself", serverNet, "http://192.0.2.1:30080", server.Hostname},
			{"host network from another machine", second, "http://192.0.2.1:8090", node},
		} {
			n.Eventually(c.what, func() error {
				if got, err := get(c.netns, c.url); err != nil || got != c.want {
					return fmt.Errorf("%s answers %q, %v; want %s", c.url, got, err, c.want)
				}
				return nil
			})
		}
		n.Eventually("UDP host port from another machine", func() error { return askUDP(second, "192.0.2.1:30053") })
	}
	// busybox' wget, being static, crashes in a container without glibc.
	ask := func(addr string) string {
		return run(n, ctr, "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 20 "+addr+" | tail -n 1")
	}
	inside := func() { // what a container reaches
		t.Helper()
		for addr, want := range map[string]string{
			ip4 + " 8080":            server.Hostname,
			ip6 + " 8080":            server.Hostname,
			"192.0.2.1 30080":        server.Hostname,
			"192.0.2.2 " + whoAsks:   "192.0.2.1", // masqueraded
			"2001:db8::2 " + whoAsks: "2001:db8::1",
		} {
			if got := ask(addr); got != want {
				t.Errorf("from a container, %s answers %q; want %s", addr, got, want)
			}
		}
	}
	check()
	inside()
	if got, err := get(second, "http://192.0.2.1:30081"); err == nil {
		t.Errorf("the mapping of another address answers %q", got)
	}
	if rules := strings.Join(n.NetworkState(), "\n"); !strings.Contains(rules, "sctp dport 30132") || strings.Contains(rules, "9999") {
		t.Errorf("rules are %s", rules)
	}
	n.Kill()
	check()
	n.Start()
	check()
	inside()
	// Others flush the packet filter too. The next pod brings the way out back for all.
	n.Sh(n.NetNS, "nft delete table inet embedcri_"+n.Bridge)
	if err := n.Runtime.RemovePodSandbox(n.Ctx(), serverPod); err != nil {
		t.Fatal(err)
	}
	if got, err := get(second, "http://192.0.2.1:30080"); err == nil {
		t.Errorf("the host port of a removed pod answers %q", got)
	}
	n.Kill()
	n.Start()
	n.RunPod(n.PodConfig())
	if got := ask("192.0.2.2 " + whoAsks); got != "192.0.2.1" {
		t.Errorf("from a container after a flush: %q", got)
	}
}

// TestSeveralNetworks joins a pod to two networks, of which the first is the one that Kubernetes hears of.
func TestSeveralNetworks(t *testing.T) {
	n := testnode.New(t, testnode.Options{OwnNet: true, Network: "max_networks = 2"})
	for file, c := range map[string][3]string{"10-a.conflist": {"first", n.Bridge, "10.98.0.0/24"}, "20-b.conflist": {"second", "side0", "10.99.0.0/24"}} {
		text := fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,"plugins":[{"type":"bridge","bridge":%q,"isGateway":true,"ipam":{"type":"host-local","subnet":%q,"dataDir":%q}}]}`,
			c[0], c[1], c[2], n.Dir+"/root/cni/networks")
		if err := os.WriteFile(filepath.Join(n.CNIConf, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	n.Start()
	ref := imageInside(t, n, "busybox:1")
	pc := n.PodConfig()
	pod := n.RunPod(pc)
	ctr := n.Run(pod, pc, n.ContainerConfig(ref, "sleep", "1000"))
	got := run(n, ctr, "ip -4 -o addr show | awk '{ print $2, $4 }'")
	if want := "lo 127.0.0.1/8\neth0 10.98.0.2/24\neth1 10.99.0.2/24"; got != want {
		t.Errorf("addresses are %q, want %q", got, want)
	}
	ps, err := n.Runtime.PodSandboxStatus(n.Ctx(), pod, false)
	if err != nil || ps.Status.Network.Ip != "10.98.0.2" || len(ps.Status.Network.AdditionalIps) != 0 {
		t.Errorf("status: %v, %v", ps, err)
	}
	if err := n.Runtime.RemovePodSandbox(n.Ctx(), pod); err != nil {
		t.Error(err)
	}
	n.Sh(n.NetNS, "ip link del side0")
}

// TestBandwidth finds the rates of a pod's annotations at its interfaces.
func TestBandwidth(t *testing.T) {
	n := testnode.Start(t, testnode.Options{OwnNet: true})
	pc := n.PodConfig()
	pc.Annotations = map[string]string{"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "20M"}
	pod := n.RunPod(pc)
	qdiscs := n.Sh(n.NetNS, "tc qdisc show")
	for _, rate := range []string{"rate 10Mbit", "rate 20Mbit"} {
		if !strings.Contains(qdiscs, rate) {
			t.Errorf("no qdisc has %s: %s", rate, qdiscs)
		}
	}
	if err := n.Runtime.RemovePodSandbox(n.Ctx(), pod); err != nil {
		t.Error(err)
	}
	bad := n.PodConfig()
	bad.Annotations = map[string]string{"kubernetes.io/ingress-bandwidth": "fast"}
	if _, err := n.Runtime.RunPodSandbox(n.Ctx(), bad, ""); err == nil || !strings.Contains(err.Error(), "kubernetes.io/ingress-bandwidth") {
		t.Errorf("a rate that is none: %v", err)
	}
}

// TestPodCIDR: the kubelet says what the pods' addresses are, and a template makes the network of it.
func TestPodCIDR(t *testing.T) {
	template := filepath.Join(t.TempDir(), "template")
	n := testnode.New(t, testnode.Options{OwnNet: true, Network: fmt.Sprintf("pod_cidr_template = %q", template)})
	text := `{"cniVersion":"1.0.0","name":"templated","plugins":[{"type":"bridge","bridge":"` + n.Bridge + `","isGateway":true,"ipam":{"type":"host-local","dataDir":"` + n.Dir + `/root/cni/networks",
		"ranges":[{{range $i, $r := .PodCIDRRanges}}{{if $i}},{{end}}[{"subnet":"{{$r}}"}]{{end}}],"routes":[{{range $i, $r := .Routes}}{{if $i}},{{end}}{"dst":"{{$r}}"}{{end}}]}}]}`
	if err := os.WriteFile(template, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	n.Start()
	update := &runtimeapi.RuntimeConfig{NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: "10.66.0.0/24,fd66::/64"}}
	if err := n.Runtime.UpdateRuntimeConfig(n.Ctx(), update); err != nil {
		t.Fatal(err)
	}
	ps, err := n.Runtime.PodSandboxStatus(n.Ctx(), n.RunPod(n.PodConfig()), false)
	if err != nil || ps.Status.Network.Ip != "10.66.0.2" || len(ps.Status.Network.AdditionalIps) != 1 || ps.Status.Network.AdditionalIps[0].Ip != "fd66::2" {
		t.Errorf("status: %v, %v", ps, err)
	}
	update.NetworkConfig.PodCidr = "10.66/24"
	if err := n.Runtime.UpdateRuntimeConfig(n.Ctx(), update); err == nil {
		t.Error("a CIDR that is none is accepted")
	}
}

// TestNetworkReady follows the condition while the configuration directory goes and comes back.
func TestNetworkReady(t *testing.T) {
	n := testnode.New(t, testnode.Options{NoNetwork: true, Network: `status_grace = "0s"`})
	if err := os.WriteFile(filepath.Join(n.CNIBin, "any"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	n.Start()
	ready := func(want bool, text string) {
		t.Helper()
		n.Eventually(fmt.Sprintf("NetworkReady is %v", want), func() error {
			st, err := n.Runtime.Status(n.Ctx(), false)
			if err != nil {
				return err
			}
			for _, c := range st.Status.Conditions {
				if c.Type == runtimeapi.NetworkReady && (c.Status != want || !strings.Contains(c.Message, text)) {
					return fmt.Errorf("%v", c)
				}
			}
			return nil
		})
	}
	ready(false, "cni plugin not initialized")
	for range 2 {
		if err := os.MkdirAll(n.CNIConf, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(n.CNIConf, "10-any.conflist"), []byte(`{"cniVersion":"1.0.0","name":"any","plugins":[{"type":"any"}]}`), 0o644); err != nil {
			t.Fatal(err)
		}
		ready(true, "")
		if err := os.RemoveAll(n.CNIConf); err != nil {
			t.Fatal(err)
		}
		ready(false, "cni plugin not initialized")
		if _, err := n.Runtime.RunPodSandbox(n.Ctx(), n.PodConfig(), ""); err == nil || !strings.Contains(err.Error(), n.CNIConf) {
			t.Errorf("a pod without any network: %v", err)
		}
	}
}

// get fetches a URL from inside of a network namespace.
func get(netns, url string) (string, error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return namespace.Dial(ctx, netns, network, addr)
	}}
	client := &http.Client{Transport: transport, Timeout: testenv.Slow(2 * time.Second)}
	r, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return strings.TrimSpace(string(b)), err
}

// serveAddresses answers HTTP requests, inside of a network namespace, with the address that they come from. It returns the port.
func serveAddresses(t *testing.T, netns string) string {
	t.Helper()
	var l net.Listener
	if err := namespace.Do(netns, func() (err error) { l, err = net.Listen("tcp", "[::]:0"); return err }); err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		_, _ = io.WriteString(w, strings.TrimPrefix(host, "::ffff:"))
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// echoUDP sends datagrams back, inside of a network namespace.
func echoUDP(t *testing.T, netns, addr string) {
	t.Helper()
	var c net.PacketConn
	if err := namespace.Do(netns, func() (err error) { c, err = net.ListenPacket("udp", addr); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 64)
		for {
			k, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(buf[:k], from)
		}
	}()
}

// askUDP sends one datagram from inside of a network namespace and wants it back.
func askUDP(netns, addr string) error {
	var c net.Conn
	if err := namespace.Do(netns, func() (err error) { c, err = net.Dial("udp", addr); return err }); err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(testenv.Slow(time.Second)))
	if _, err := c.Write([]byte("question")); err != nil {
		return err
	}
	buf := make([]byte, 64)
	k, err := c.Read(buf)
	if err == nil && !bytes.Equal(buf[:k], []byte("question")) {
		err = fmt.Errorf("answer %q", buf[:k])
	}
	return err
}
