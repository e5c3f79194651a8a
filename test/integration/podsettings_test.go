// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testnode"
)

// TestPodSettings reads what a pod was configured with from inside of its containers.
func TestPodSettings(t *testing.T) {
	n := testnode.Start(t, testnode.Options{Config: "[pod]\nshm_size = 12582912\nunprivileged_ports = true\nunprivileged_icmp = true\n"})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pc := n.PodConfig()
	pc.Hostname = "a-pod"
	pc.DnsConfig = &runtimeapi.DNSConfig{
		Servers: []string{"192.0.2.53", "2001:db8::53"}, Searches: []string{"a.example", "b.example"}, Options: []string{"ndots:5", "edns0"},
	}
	path, remove := n.PodCgroup("poduid")
	pc.Linux.CgroupParent = path
	pc.Linux.Sysctls = map[string]string{
		"net.core.somaxconn": "1234", "kernel.shm_rmid_forced": "1", "kernel.msgmax": "4321", "fs.mqueue.msg_max": "77",
		"net.ipv4.conf.eth0.arp_ignore": "2", "net/ipv4/ip_local_port_range": "40000 50000",
	}
	pod := n.RunPod(pc)
	ctr := n.Run(pod, pc, n.ContainerConfig(ref, "sleep", "1000"))
	other := n.Run(pod, pc, n.ContainerConfig(ref, "sleep", "1000"))
	ps, err := n.Runtime.PodSandboxStatus(n.Ctx(), pod, false)
	if err != nil {
		t.Fatal(err)
	}
	net := ps.Status.Network
	if len(net.AdditionalIps) != 1 {
		t.Fatalf("network is %v, want two addresses", net)
	}
	for cmd, want := range map[string]string{
		"hostname":              "a-pod",
		"cat /etc/hostname":     "a-pod",
		"cat /etc/resolv.conf":  "search a.example b.example\nnameserver 192.0.2.53\nnameserver 2001:db8::53\noptions ndots:5 edns0",
		"grep a-pod /etc/hosts": net.Ip + "\ta-pod\n" + net.AdditionalIps[0].Ip + "\ta-pod",
		"df -k /dev/shm | awk 'NR == 2 { print $2 }'":       "12288",
		"stat -c %a /dev/shm":                               "1777",
		"cat /proc/sys/net/core/somaxconn":                  "1234",
		"cat /proc/sys/kernel/shm_rmid_forced":              "1",
		"cat /proc/sys/kernel/msgmax":                       "4321",
		"cat /proc/sys/fs/mqueue/msg_max":                   "77",
		"cat /proc/sys/net/ipv4/conf/eth0/arp_ignore":       "2",
		"cat /proc/sys/net/ipv4/ip_local_port_range":        "40000\t50000",
		"cat /proc/sys/net/ipv4/ip_unprivileged_port_start": "0",
		"cat /proc/sys/net/ipv4/ping_group_range":           "0\t2147483647",
	} {
		if got := run(n, ctr, cmd); got != want {
			t.Errorf("%s: %q, want %q", cmd, got, want)
		}
	}
	run(n, ctr, "echo shared > /dev/shm/file")
	if got := run(n, other, "cat /dev/shm/file"); got != "shared" {
		t.Errorf("/dev/shm of the other container: %q", got)
	}
	for _, id := range []string{ctr, other} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pidOf(t, n, id)))
		if err != nil || !strings.Contains(string(b), path+"/") || !strings.Contains(string(b), id) {
			t.Errorf("cgroup of %s: %s %v, want it in %s", id, b, err, path)
		}
	}
	if err := n.Runtime.RemovePodSandbox(n.Ctx(), pod); err != nil {
		t.Fatal(err)
	}
	remove()
	// None of it has reached the host.
	if b, err := os.ReadFile("/proc/sys/net/core/somaxconn"); err != nil || strings.TrimSpace(string(b)) == "1234" {
		t.Errorf("the host's somaxconn: %s %v", b, err)
	}
}

// TestSysctlsOfTheHostAreRefused: a pod that shares a namespace with the host, or asks for what has no namespace, changes nothing.
func TestSysctlsOfTheHostAreRefused(t *testing.T) {
	n := testnode.Start(t, testnode.Options{})
	for name, c := range map[string]struct {
		network, ipc runtimeapi.NamespaceMode
		ok           bool
	}{
		"net.core.somaxconn":     {network: modeNode},
		"kernel.shm_rmid_forced": {ipc: modeNode},
		"fs.mqueue.msg_max":      {ipc: modeNode},
		"kernel.pid_max":         {},
		"vm.swappiness":          {},
		"net.no.such":            {},
		"kernel/shm/../pid_max":  {},
		"kernel.msgmnb":          {network: modeNode, ok: true},
	} {
		pc := n.PodConfig()
		pc.Linux.SecurityContext.NamespaceOptions.Network, pc.Linux.SecurityContext.NamespaceOptions.Ipc = c.network, c.ipc
		pc.Linux.Sysctls = map[string]string{name: "4096"}
		id, err := n.Runtime.RunPodSandbox(n.Ctx(), pc, "")
		if c.ok {
			if err != nil {
				t.Errorf("%s in a pod with a namespace for it: %v", name, err)
			}
			continue
		}
		want(t, err, codes.InvalidArgument, name)
		if id != "" {
			t.Errorf("%s: pod %s was made", name, id)
		}
	}
	if left, err := filepath.Glob(n.State + "/ns/*"); err != nil || len(left) != 1 { // of the one that is fine
		t.Errorf("namespaces are left: %q %v", left, err)
	}
}

// TestUnprivilegedPortAndPing: a process without any capability binds port 80 and pings.
func TestUnprivilegedPortAndPing(t *testing.T) {
	n := testnode.Start(t, testnode.Options{})
	busybox, httpd := registry.Ref(t, "busybox:1"), registry.Ref(t, "httpd:1")
	n.Pull(busybox)
	n.Pull(httpd)
	pc := n.PodConfig()
	pod := n.RunPod(pc)
	nobody := func(c *runtimeapi.ContainerConfig) *runtimeapi.ContainerConfig {
		c.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: 1000}
		c.Linux.SecurityContext.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}}
		return c
	}
	server := n.ContainerConfig(httpd)
	server.Args = []string{":80"}
	n.Run(pod, pc, nobody(server))
	client := n.Run(pod, pc, nobody(n.ContainerConfig(busybox, "sleep", "1000")))
	if got := run(n, client, "id -u; grep CapEff /proc/self/status"); !strings.Contains(got, "1000") || !strings.Contains(got, "0000000000000000") {
		t.Fatalf("the client is %q", got)
	}
	ip := podIP(t, n, pod)
	if got := run(n, client, "ping -c 1 -W 5 "+ip+" && ping -c 1 -W 5 127.0.0.1 > /dev/null && echo both"); !strings.Contains(got, "both") {
		t.Errorf("ping: %s", got)
	}
	n.Eventually("port 80 answers", func() error {
		r, err := http.Get("http://" + ip + ":80/")
		if err != nil {
			return err
		}
		defer r.Body.Close()
		if b, err := io.ReadAll(r.Body); err != nil || strings.TrimSpace(string(b)) != pc.Hostname {
			return fmt.Errorf("answer %q %v", b, err)
		}
		return nil
	})
}

// TestPodIdentity: what the kubelet said about a pod comes back unaltered, and attempts of one pod are pods of their own.
func TestPodIdentity(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	pc := n.HostPodConfig()
	pc.Labels = map[string]string{"io.kubernetes.pod.name": "a", "empty": "", "ünïcode": "ß\n\"quoted\" {}"}
	pc.Annotations = map[string]string{"json": `{"a": [1, 2, {"b": "\u00e9"}]}`, "long": strings.Repeat("x", 200<<10), "kubernetes.io/config.hash": "1"}
	first := n.RunPod(pc)
	if err := n.Runtime.StopPodSandbox(n.Ctx(), first); err != nil {
		t.Fatal(err)
	}
	again := n.HostPodConfig()
	again.Metadata = &runtimeapi.PodSandboxMetadata{Name: pc.Metadata.Name, Uid: pc.Metadata.Uid, Namespace: pc.Metadata.Namespace, Attempt: 1}
	again.Labels, again.Annotations = pc.Labels, pc.Annotations
	second := n.RunPod(again)
	if first == second {
		t.Fatal("two attempts are one pod")
	}
	n.Kill()
	n.Start()
	for id, attempt := range map[string]uint32{first: 0, second: 1} {
		ps, err := n.Runtime.PodSandboxStatus(n.Ctx(), id, false)
		if err != nil {
			t.Fatal(err)
		}
		s := ps.Status
		if s.Metadata.Attempt != attempt || s.Metadata.Name != pc.Metadata.Name || s.Metadata.Uid != pc.Metadata.Uid || s.Metadata.Namespace != pc.Metadata.Namespace {
			t.Errorf("metadata of attempt %d: %v", attempt, s.Metadata)
		}
		if !maps.Equal(s.Labels, pc.Labels) || !maps.Equal(s.Annotations, pc.Annotations) {
			t.Errorf("labels or annotations of attempt %d are altered: %v", attempt, s.Labels)
		}
	}
	list, err := n.Runtime.ListPodSandbox(n.Ctx(), &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"ünïcode": pc.Labels["ünïcode"]}})
	if err != nil || len(list) != 2 || !maps.Equal(list[0].Annotations, pc.Annotations) {
		t.Errorf("list: %d pods, %v", len(list), err)
	}
}

// TestHandlerFeatures: Status says what the handlers can do, by both of the default's names.
func TestHandlerFeatures(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	st, err := n.Runtime.Status(n.Ctx(), false)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]*runtimeapi.RuntimeHandlerFeatures{}
	for _, h := range st.RuntimeHandlers {
		names[h.Name] = h.Features
	}
	for _, name := range []string{"", "runc"} {
		if f := names[name]; !f.GetRecursiveReadOnlyMounts() || !f.GetUserNamespaces() {
			t.Errorf("features of handler %q: %v", name, f)
		}
	}
	if f := st.Features; !f.GetSupplementalGroupsPolicy() || !f.GetMountOptions() || !f.GetUserNamespacesHostNetwork() {
		t.Errorf("features: %v", f)
	}
	_, err = n.Runtime.RunPodSandbox(n.Ctx(), n.HostPodConfig(), "no-such-handler")
	want(t, err, codes.NotFound, "no-such-handler")
}

// podIP is a pod's first address.
func podIP(t testing.TB, n *testnode.Node, pod string) string {
	t.Helper()
	ps, err := n.Runtime.PodSandboxStatus(n.Ctx(), pod, false)
	if err != nil {
		t.Fatal(err)
	}
	return ps.Status.Network.GetIp()
}
