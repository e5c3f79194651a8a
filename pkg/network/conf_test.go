// SPDX-License-Identifier: Apache-2.0

package network_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/embedcri/embedcri/pkg/network"
)

// networkOf is the network that a pod would get now; "" for none.
func networkOf(t testing.TB, n *network.Network) string {
	t.Helper()
	a, err := n.Plan(network.Pod{ID: podID("p"), NetNS: "/proc/self/ns/net"})
	if err != nil {
		if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "cni plugin not initialized") {
			t.Errorf("error is %v", err)
		}
		return ""
	}
	return a.Links[0].Network
}

func becomes(t testing.TB, n *network.Network, want string) {
	t.Helper()
	eventually(t, "network "+want, func() bool { return networkOf(t, n) == want })
}

// notPolled makes sure that a change was noticed and not just come across.
const notPolled = time.Hour

func TestConfDirComesAndGoes(t *testing.T) {
	f := newFakes(t)
	f.PollInterval = notPolled
	parent := filepath.Join(f.dir, "etc", "cni")
	f.ConfDir = filepath.Join(parent, "net.d")
	n := open(t, f.Options)
	if got := networkOf(t, n); got != "" {
		t.Errorf("network %s of a directory that does not exist", got)
	}
	for range 3 {
		if err := os.MkdirAll(f.ConfDir, 0o755); err != nil {
			t.Fatal(err)
		}
		f.network("10-a.conflist", "net1", "1.0.0", "any")
		becomes(t, n, "net1")
		f.network("05-b.conflist", "net0", "1.0.0", "any")
		becomes(t, n, "net0")
		if err := os.Remove(filepath.Join(f.ConfDir, "05-b.conflist")); err != nil {
			t.Fatal(err)
		}
		becomes(t, n, "net1")
		// The directory is moved away and another one takes its place.
		if err := os.Rename(f.ConfDir, f.ConfDir+".old"); err != nil {
			t.Fatal(err)
		}
		becomes(t, n, "")
		if err := os.Rename(f.ConfDir+".old", f.ConfDir); err != nil {
			t.Fatal(err)
		}
		becomes(t, n, "net1")
		if err := os.RemoveAll(parent); err != nil {
			t.Fatal(err)
		}
		becomes(t, n, "")
	}
}

// TestNeighboursDoNotMatter: what happens beside the directory has nobody read it again or ask plug-ins for their status, which here
// would go on for ever, as those write next to it.
func TestNeighboursDoNotMatter(t *testing.T) {
	f := newFakes(t)
	f.PollInterval, f.StatusInterval = notPolled, notPolled
	f.network("10-a.conflist", "net1", "1.1.0", "any")
	n := open(t, f.Options)
	asked := func() int {
		b, _ := os.ReadFile(filepath.Join(f.dir, "log.status"))
		return strings.Count(string(b), "\n")
	}
	eventually(t, "asked", func() bool { return asked() > 0 })
	time.Sleep(200 * time.Millisecond) // for what the configuration's own writing announced
	before := asked()
	for i := range 20 {
		if err := os.WriteFile(filepath.Join(f.dir, "neighbour"), []byte{byte(i)}, 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if now := asked(); now != before {
		t.Errorf("plug-ins were asked for their status %d times, and %d times after writes next to the directory", before, now)
	}
	f.network("05-b.conflist", "net0", "1.1.0", "any")
	becomes(t, n, "net0")
}

// TestPollFindsWhatIsNotAnnounced re-targets a symbolic link two levels up, which inotify does not
// tell.
func TestPollFindsWhatIsNotAnnounced(t *testing.T) {
	f := newFakes(t)
	f.PollInterval = 20 * time.Millisecond
	for i, name := range []string{"first", "second"} {
		dir := filepath.Join(f.dir, name, "cni", "net.d")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		f.ConfDir = dir
		f.network("10-a.conflist", []string{"net1", "net2"}[i], "1.0.0", "any")
	}
	link := filepath.Join(f.dir, "etc")
	if err := os.Symlink("first", link); err != nil {
		t.Fatal(err)
	}
	f.ConfDir = filepath.Join(link, "cni", "net.d")
	n := open(t, f.Options)
	becomes(t, n, "net1")
	if err := os.Symlink("second", link+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+".new", link); err != nil {
		t.Fatal(err)
	}
	becomes(t, n, "net2")
}

func TestConfFiles(t *testing.T) {
	const good = `{"cniVersion":"1.0.0","name":"good","plugins":[{"type":"any"}]}`
	for _, c := range []struct {
		name   string
		files  map[string]string
		want   string
		status string // a part of the message, of those that leave the node without a network
	}{
		{"nothing", nil, "", "no network configuration in"},
		{"other files only", map[string]string{"README": "x", "a.conflist.bak": good}, "", "no network configuration in"},
		{"first by name", map[string]string{"20.conflist": strings.Replace(good, "good", "later", 1), "10.conflist": good}, "good", ""},
		{"broken before good", map[string]string{"10.conflist": `{"name":`, "20.conflist": good}, "good", ""},
		{"broken only", map[string]string{"10.conflist": `{"name":`}, "", "10.conflist: "},
		{"single plug-in", map[string]string{"10.conf": `{"cniVersion":"0.3.1","name":"single","type":"any"}`}, "single", ""},
		{"single plug-in as json", map[string]string{"10.json": `{"cniVersion":"0.3.1","name":"single","type":"any"}`}, "single", ""},
		{"no type", map[string]string{"10.conf": `{"cniVersion":"0.3.1","name":"single"}`}, "", "missing 'type'"},
		{"no plug-ins", map[string]string{"10.conflist": `{"cniVersion":"1.0.0","name":"x","plugins":[]}`}, "", "no plugins"},
		{"no name", map[string]string{"10.conflist": `{"cniVersion":"1.0.0","plugins":[{"type":"any"}]}`}, "", "no name"},
		{"bad name", map[string]string{"10.conflist": strings.Replace(good, "good", "a/b", 1)}, "", "10.conflist: "},
		{"from the future", map[string]string{"10.conflist": strings.Replace(good, "1.0.0", "9.0.0", 1)}, "", "cniVersion 9.0.0 is newer"},
		{"no version", map[string]string{"10.conflist": strings.Replace(good, `"cniVersion":"1.0.0",`, "", 1)}, "good", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFakes(t)
			for name, text := range c.files {
				f.conf(name, text)
			}
			n := open(t, f.Options)
			if got := networkOf(t, n); got != c.want {
				t.Errorf("network %q, want %q", got, c.want)
			}
			if c.status != "" {
				ready, reason, message := n.Status()
				if ready || reason != network.ReasonNotReady || !strings.Contains(message, "cni plugin not initialized") || !strings.Contains(message, c.status) {
					t.Errorf("status %v, %s, %q; want a message with %q", ready, reason, message, c.status)
				}
			}
		})
	}
}

// TestPluginsInASubdirectory: a list's plug-ins may lie in files beside it; the attachment must
// have them all.
func TestPluginsInASubdirectory(t *testing.T) {
	f := newFakes(t)
	f.plugin("one", result)
	f.plugin("two", result)
	if err := os.Mkdir(filepath.Join(f.ConfDir, "net1"), 0o755); err != nil {
		t.Fatal(err)
	}
	f.conf("net1/20-two.conf", `{"type":"two"}`)
	f.conf("10-net1.conflist", `{"cniVersion":"1.1.0","name":"net1","disableGC":true,"plugins":[{"type":"one"}]}`)
	n := open(t, f.Options)
	a := plan(t, n, network.Pod{})
	if err := os.RemoveAll(filepath.Join(f.ConfDir, "net1")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "STATUS", func() bool { ready, _, _ := n.Status(); return ready })
	f.log()
	if err := n.Attach(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if err := n.Detach(t.Context(), stored(t, a)); err != nil {
		t.Fatal(err)
	}
	if got, want := f.log(), "one ADD eth0, two ADD eth0, two DEL eth0, one DEL eth0"; got != want {
		t.Errorf("calls are %s, want %s", got, want)
	}
	if !strings.Contains(string(a.Links[0].Conf), `"disableGC":true`) {
		t.Errorf("the configuration became %s", a.Links[0].Conf)
	}
}

func TestSameNetworkTwice(t *testing.T) {
	f := newFakes(t)
	f.MaxNetworks = 2
	f.network("10-a.conflist", "net1", "1.0.0", "any")
	f.network("20-b.conflist", "net1", "1.0.0", "any")
	n := open(t, f.Options)
	if a := plan(t, n, network.Pod{}); len(a.Links) != 1 {
		t.Errorf("%d links to one network", len(a.Links))
	}
}

func TestBuiltInNetwork(t *testing.T) {
	f := newFakes(t)
	f.PollInterval = notPolled
	f.Bridge = network.Bridge{Enabled: true, Name: "pods0", Subnets: []string{"10.1.0.0/24"}, DataDir: f.dir, MTU: 1400}
	n := open(t, f.Options)
	becomes(t, n, "pods0")
	if got := string(plan(t, n, network.Pod{}).Links[0].Conf); !strings.Contains(got, `"mtu":1400`) || strings.Contains(got, "bandwidth") {
		t.Errorf("configuration is %s", got)
	}
	// What an administrator has put there is never ignored, not even if it is broken.
	f.conf("10-net.conflist", `{`)
	becomes(t, n, "")
	f.network("10-net.conflist", "net1", "1.0.0", "any")
	becomes(t, n, "net1")
	f.plugin("bandwidth", "")
	if err := os.Remove(filepath.Join(f.ConfDir, "10-net.conflist")); err != nil {
		t.Fatal(err)
	}
	becomes(t, n, "pods0")
	if got := string(plan(t, n, network.Pod{}).Links[0].Conf); !strings.Contains(got, "bandwidth") {
		t.Errorf("the bandwidth plug-in is there and not used: %s", got)
	}
}

func TestOpenRefuses(t *testing.T) {
	good := network.Options{ConfDir: t.TempDir(), BinDirs: []string{"/x"}, CacheDir: t.TempDir()}
	with := func(change func(*network.Options)) network.Options {
		o := good
		change(&o)
		return o
	}
	bridge := func(name string, subnets ...string) network.Options {
		return with(func(o *network.Options) { o.Bridge = network.Bridge{Enabled: true, Name: name, Subnets: subnets} })
	}
	for want, o := range map[string]network.Options{
		"no directory for network configurations": with(func(o *network.Options) { o.ConfDir = "" }),
		"no directory for plug-ins":               with(func(o *network.Options) { o.BinDirs = nil }),
		"no directory for the result cache":       with(func(o *network.Options) { o.CacheDir = "" }),
		"negative":                                with(func(o *network.Options) { o.Timeout = -1 }),
		"the bridge has no name":                  bridge("", "10.0.0.0/24"),
		"too long":                                bridge("a-name-of-16-byte", "10.0.0.0/24"),
		"0 subnets":                               bridge("b"),
		"host bits":                               bridge("b", "10.0.0.1/24"),
		"one address family":                      bridge("b", "10.0.0.0/24", "10.1.0.0/24"),
		"no '/'":                                  bridge("b", "10.0.0.0"),
	} {
		n, err := network.Open(t.Context(), o)
		if err == nil {
			n.Close()
		}
		mustContain(t, err, want)
	}
}

// TestSamples: what we tell people to copy works.
func TestSamples(t *testing.T) {
	f := newFakes(t)
	f.plugin("bandwidth", "")
	samples := filepath.Join("..", "..", "manifests", "cni")
	text, err := os.ReadFile(filepath.Join(samples, "10-bridge.conflist"))
	if err != nil {
		t.Fatal(err)
	}
	f.conf("10-bridge.conflist", string(text))
	n := open(t, f.Options)
	if got := networkOf(t, n); got != "pods" {
		t.Errorf("network %q", got)
	}

	f = newFakes(t)
	f.plugin("bandwidth", "")
	f.PodCIDRTemplate = filepath.Join(samples, "pod-cidr.conflist.template")
	n = open(t, f.Options)
	if err := n.UpdatePodCIDR(t.Context(), "10.1.2.0/24,fd01::/64"); err != nil {
		t.Fatal(err)
	}
	if got := string(plan(t, n, network.Pod{}).Links[0].Conf); !strings.Contains(got, `[{"subnet":"10.1.2.0/24"}],[{"subnet":"fd01::/64"}]`) {
		t.Errorf("rendered %s", got)
	}
}
