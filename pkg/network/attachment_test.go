// SPDX-License-Identifier: Apache-2.0

package network_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/embedcri/embedcri/pkg/network"
)

// TestWhatPluginsAreTold reads back the environment and configuration of a plug-in.
func TestWhatPluginsAreTold(t *testing.T) {
	f := newFakes(t)
	f.plugin("tell", `env | grep ^CNI_ > $dir/env.$CNI_COMMAND; echo "$conf" > $dir/conf.$CNI_COMMAND; `+result)
	f.conf("10-net.conflist", `{"cniVersion":"1.0.0","name":"net1","plugins":[{"type":"tell","own":"setting","capabilities":
		{"portMappings":true,"bandwidth":true,"dns":true,"cgroupPath":true,"ipRanges":true,"io.kubernetes.cri.pod-annotations":true,"mac":true}}]}`)
	n := open(t, f.Options)
	if err := n.UpdatePodCIDR(t.Context(), "10.1.0.0/24,fd01::/64"); err != nil {
		t.Fatal(err)
	}
	annotations := map[string]string{"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "1G", "other": "<&>"}
	a := plan(t, n, network.Pod{
		ID: podID("p"), Name: "web-0", Namespace: "shop", UID: "1-2-3", CgroupParent: "/kubepods/pod1",
		Annotations: annotations,
		PortMappings: []network.PortMapping{
			{HostPort: 8080, ContainerPort: 80, Protocol: "tcp", HostIP: "192.0.2.1"},
			{HostPort: 0, ContainerPort: 81, Protocol: "tcp"},
			{HostPort: 5353, ContainerPort: 53, Protocol: "udp"},
		},
		DNS: network.DNS{Servers: []string{"10.0.0.10"}, Searches: []string{"shop.svc"}, Options: []string{"ndots:5"}},
	})
	if err := n.Attach(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	a = stored(t, a)
	if err := n.Detach(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"ADD", "DEL"} {
		env := f.read("env." + verb)
		for _, want := range []string{
			"CNI_CONTAINERID=" + podID("p"), "CNI_IFNAME=eth0", "CNI_NETNS=/proc/self/ns/net", "CNI_PATH=" + f.BinDirs[0],
			"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=" + podID("p") + ";K8S_POD_UID=1-2-3",
		} {
			if !strings.Contains(env+"\n", want+"\n") {
				t.Errorf("%s: the environment lacks %s:\n%s", verb, want, env)
			}
		}
		var conf struct {
			Name, Own     string
			RuntimeConfig map[string]any
			PrevResult    map[string]any
		}
		if err := json.Unmarshal([]byte(f.read("conf."+verb)), &conf); err != nil {
			t.Fatal(err)
		}
		var want map[string]any
		if err := json.Unmarshal([]byte(`{
			"portMappings": [{"hostPort":8080,"containerPort":80,"protocol":"tcp","hostIP":"192.0.2.1"},{"hostPort":5353,"containerPort":53,"protocol":"udp"}],
			"bandwidth": {"ingressRate":10000000,"ingressBurst":4294967295,"egressRate":1000000000,"egressBurst":4294967295},
			"dns": {"servers":["10.0.0.10"],"searches":["shop.svc"],"options":["ndots:5"]},
			"cgroupPath": "/kubepods/pod1",
			"ipRanges": [[{"subnet":"10.1.0.0/24"}],[{"subnet":"fd01::/64"}]],
			"io.kubernetes.cri.pod-annotations": {"kubernetes.io/ingress-bandwidth":"10M","kubernetes.io/egress-bandwidth":"1G","other":"<&>"}}`), &want); err != nil {
			t.Fatal(err)
		}
		if conf.Name != "net1" || conf.Own != "setting" || !reflect.DeepEqual(conf.RuntimeConfig, want) {
			t.Errorf("%s: configuration is %+v\nwant %v", verb, conf, want)
		}
		if (verb == "DEL") != (conf.PrevResult != nil) {
			t.Errorf("%s: prevResult is %v", verb, conf.PrevResult)
		}
	}
}

// TestDetachUsesTheConfigurationOfAttach changes the node's configuration in between.
func TestDetachUsesTheConfigurationOfAttach(t *testing.T) {
	f := newFakes(t)
	f.plugin("tell", `echo "$conf" > $dir/conf.$CNI_COMMAND; `+result)
	f.plugin("chained", `[ $CNI_COMMAND != ADD ] || echo '{"cniVersion":"1.0.0","ips":[{"address":"198.51.100.7/24"}]}'`)
	f.plugin("other", result)
	f.conf("10-net.conflist", `{"cniVersion":"1.0.0","name":"net1","plugins":[{"type":"tell","generation":1},{"type":"chained"}]}`)
	n := open(t, f.Options)
	a := plan(t, n, network.Pod{})
	if err := n.Attach(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	a = stored(t, a)
	f.network("10-net.conflist", "net2", "1.0.0", "other")
	eventually(t, "new configuration", func() bool { return plan(t, n, network.Pod{}).Links[0].Network == "net2" })
	f.log()
	if err := n.Close(); err != nil { // and the daemon is another one
		t.Fatal(err)
	}
	n = open(t, f.Options)
	if err := n.Detach(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if got, want := f.log(), "chained DEL eth0, tell DEL eth0"; got != want {
		t.Errorf("calls are %s, want %s", got, want)
	}
	if got := f.read("conf.DEL"); !strings.Contains(got, `"generation":1`) {
		t.Errorf("DEL got %s", got)
	}
}

func TestSeveralNetworks(t *testing.T) {
	f := newFakes(t)
	f.MaxNetworks = 2
	f.plugin("one", result)
	f.plugin("two", `[ $CNI_COMMAND != ADD ] || echo '{"cniVersion":"1.0.0","ips":[{"address":"203.0.113.9/24"}]}'`)
	f.plugin("three", "exit 1")
	f.network("30-c.conflist", "net3", "1.0.0", "three")
	f.network("20-b.conflist", "net2", "1.0.0", "two")
	f.network("10-a.conflist", "net1", "1.0.0", "one")
	n := open(t, f.Options)
	a := plan(t, n, network.Pod{})
	if err := n.Attach(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	a = stored(t, a)
	if strings.Join(a.IPs, " ") != "198.51.100.7" || strings.Join(a.Links[1].IPs, " ") != "203.0.113.9" {
		t.Errorf("IPs are %v and %v", a.IPs, a.Links[1].IPs)
	}
	if err := n.Detach(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if got, want := f.log(), "one ADD eth0, two ADD eth1, two DEL eth1, one DEL eth0"; got != want {
		t.Errorf("calls are %s, want %s", got, want)
	}
	// A network that cannot be left does not keep the pod in the others.
	f.plugin("two", "exit 1")
	mustContain(t, n.Detach(t.Context(), a), `network "net2"`)
	if got, want := f.log(), "two DEL eth1, one DEL eth0"; got != want {
		t.Errorf("calls are %s, want %s", got, want)
	}
}

// TestPodIPs: addresses of interfaces outside of the pod are not the pod's.
func TestPodIPs(t *testing.T) {
	f := newFakes(t)
	f.plugin("many", `[ $CNI_COMMAND != ADD ] || echo '{"cniVersion":"1.0.0",
		"interfaces":[{"name":"br0"},{"name":"eth0","sandbox":"/x"},{"name":"net1","sandbox":"/x"}],
		"ips":[{"address":"192.0.2.1/24","interface":0},{"address":"2001:db8::7/64","interface":1},{"address":"10.0.0.1/8","interface":2},
			{"address":"192.0.2.7/24","interface":1},{"address":"192.0.2.8/24"}]}'`)
	f.network("10-a.conflist", "net1", "1.0.0", "many")
	n := open(t, f.Options)
	a := plan(t, n, network.Pod{})
	if err := n.Attach(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(a.IPs, " "); got != "2001:db8::7 192.0.2.7 192.0.2.8" {
		t.Errorf("IPs are %s", got)
	}
}

func TestPlanRefuses(t *testing.T) {
	f := newFakes(t)
	f.network("10-net.conflist", "net1", "1.0.0", "any")
	n := open(t, f.Options)
	tcp := func(host, container int32, ip string) network.Pod {
		return network.Pod{PortMappings: []network.PortMapping{{HostPort: host, ContainerPort: container, Protocol: "tcp", HostIP: ip}}}
	}
	for want, p := range map[string]network.Pod{
		"port mapping 0: host port 65536":     tcp(65536, 80, ""),
		"port mapping 0: host port -1":        tcp(-1, 80, ""),
		"container port 0":                    tcp(80, 0, ""),
		`host IP "localhost"`:                 tcp(80, 80, "localhost"),
		`protocol "icmp"`:                     {PortMappings: []network.PortMapping{{HostPort: 1, ContainerPort: 1, Protocol: "icmp"}}},
		`kubernetes.io/ingress-bandwidth: "x`: {Annotations: map[string]string{"kubernetes.io/ingress-bandwidth": "x"}},
		`egress-bandwidth: "1" is not`:        {Annotations: map[string]string{"kubernetes.io/egress-bandwidth": "1"}},
		`egress-bandwidth: "2P" is not`:       {Annotations: map[string]string{"kubernetes.io/egress-bandwidth": "2P"}},
	} {
		_, err := n.Plan(p)
		mustContain(t, err, want)
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: error %v, want invalid argument", want, err)
		}
	}
}

func TestGC(t *testing.T) {
	f := newFakes(t)
	f.plugin("tell", `echo "$conf" > $dir/conf.$CNI_COMMAND; echo $CNI_CONTAINERID >> $dir/ids.$CNI_COMMAND; `+result)
	f.conf("10-net.conflist", `{"cniVersion":"1.1.0","name":"net1","plugins":[{"type":"tell","generation":1,"capabilities":{"portMappings":true}}]}`)
	n := open(t, f.Options)
	var as []*network.Attachment
	for _, name := range []string{"kept", "forgotten"} {
		a := plan(t, n, network.Pod{ID: podID(name), PortMappings: []network.PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}}})
		if err := n.Attach(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		as = append(as, a)
	}
	f.conf("10-net.conflist", `{"cniVersion":"1.1.0","name":"net1","plugins":[{"type":"tell","generation":2}]}`)
	eventually(t, "new configuration", func() bool {
		return strings.Contains(string(plan(t, n, network.Pod{}).Links[0].Conf), `"generation":2`)
	})
	if err := n.GC(t.Context(), as[:1]); err != nil {
		t.Fatal(err)
	}
	if got := f.read("ids.DEL"); got != podID("forgotten") {
		t.Errorf("DEL was run for %s", got)
	}
	if got := f.read("conf.DEL"); !strings.Contains(got, `"generation":1`) || !strings.Contains(got, `"hostPort":8080`) {
		t.Errorf("DEL got %s", got)
	}
	if got, want := f.read("conf.GC"), `"cni.dev/valid-attachments":[{"containerID":"`+podID("kept")+`","ifname":"eth0"}]`; !strings.Contains(got, want) {
		t.Errorf("GC got %s, want %s", got, want)
	}
	if got := files(t, filepath.Join(f.CacheDir, "results")); len(got) != 1 {
		t.Errorf("cached: %q, want the one that is kept", got)
	}
	if err := n.GC(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if got := f.read("conf.GC"); !strings.Contains(got, `"cni.dev/valid-attachments":[]`) {
		t.Errorf("GC got %s", got)
	}
}

func TestGCDisabled(t *testing.T) {
	f := newFakes(t)
	f.plugin("tell", result)
	f.conf("10-net.conflist", `{"cniVersion":"1.1.0","name":"net1","disableGC":true,"plugins":[{"type":"tell"}]}`)
	n := open(t, f.Options)
	eventually(t, "STATUS", func() bool { ready, _, _ := n.Status(); return ready })
	f.log()
	if err := n.GC(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if got := f.log(); got != "" {
		t.Errorf("calls are %s", got)
	}
}

func TestUpdatePodCIDR(t *testing.T) {
	f := newFakes(t)
	f.plugin("tell", result)
	f.PodCIDRTemplate = filepath.Join(f.dir, "template")
	text := `{"cniVersion":"1.0.0","name":"fromcidr","plugins":[{"type":"tell","first":"{{.PodCIDR}}",
		"ranges":[{{range $i, $r := .PodCIDRRanges}}{{if $i}},{{end}}"{{$r}}"{{end}}],"routes":[{{range $i, $r := .Routes}}{{if $i}},{{end}}"{{$r}}"{{end}}]}]}`
	if err := os.WriteFile(f.PodCIDRTemplate, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	n := open(t, f.Options)
	if err := n.UpdatePodCIDR(t.Context(), " "); err != nil {
		t.Error(err)
	}
	if err := n.UpdatePodCIDR(t.Context(), "10.1.0.0"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("error %v, want invalid argument", err)
	}
	for cidr, want := range map[string]string{
		"10.1.0.0/24,fd01::/64": `"first":"10.1.0.0/24",
		"ranges":["10.1.0.0/24","fd01::/64"],"routes":["0.0.0.0/0","::/0"]`,
		"10.2.0.0/24": `"first":"10.2.0.0/24",
		"ranges":["10.2.0.0/24"],"routes":["0.0.0.0/0"]`,
	} {
		if err := n.UpdatePodCIDR(t.Context(), cidr); err != nil {
			t.Fatal(err)
		}
		squeeze := func(s string) string { return strings.Join(strings.Fields(s), "") }
		if got := string(plan(t, n, network.Pod{}).Links[0].Conf); !strings.Contains(squeeze(got), squeeze(want)) {
			t.Errorf("%s: the configuration is %s", cidr, got)
		}
	}
	// A template that makes nonsense must not replace what works.
	if err := os.WriteFile(f.PodCIDRTemplate, []byte(`{"name":{{.PodCIDR}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	mustContain(t, n.UpdatePodCIDR(t.Context(), "10.3.0.0/24"), "does not make a configuration")
	if got := plan(t, n, network.Pod{}).Links[0].Network; got != "fromcidr" {
		t.Errorf("the network is %s", got)
	}
	// The cluster's own network wins over the template.
	if err := os.WriteFile(f.PodCIDRTemplate, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f.network("05-cluster.conflist", "cluster", "1.0.0", "tell")
	if err := n.UpdatePodCIDR(t.Context(), "10.4.0.0/24"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(f.ConfDir, "10-embedcri.conflist")); err != nil || strings.Contains(string(b), "10.4.0.0") {
		t.Errorf("rendered all the same: %s, %v", b, err)
	}
}
