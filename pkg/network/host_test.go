// SPDX-License-Identifier: Apache-2.0

package network_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/embedcri/embedcri/internal/namespace"
	"github.com/embedcri/embedcri/internal/testenv"
	"github.com/embedcri/embedcri/pkg/network"
)

// host is a whole node's network in a namespace of its own: plug-ins run in the namespace of the
// thread that starts them, so a test that calls Attach from inside leaves the machine's bridges,
// packet filters and ip_forward alone.
type host struct {
	t     testing.TB
	dir   string // of pins
	netns string
}

func newHost(t testing.TB) *host {
	t.Helper()
	testenv.Require(t, "root", "cni")
	h := &host{t: t, dir: filepath.Join(t.TempDir(), "ns")}
	if err := namespace.Prepare(h.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := namespace.Unprepare(h.dir); err != nil {
			t.Errorf("namespaces are left: %v", err)
		}
	})
	h.netns = h.namespace("host")
	return h
}

// namespace makes a network namespace; a pod's, or a second host's.
func (h *host) namespace(name string) string {
	h.t.Helper()
	dir := filepath.Join(h.dir, name)
	p, err := namespace.Create(dir, namespace.Spec{Net: true})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := namespace.Delete(dir); err != nil {
			h.t.Error(err)
		}
	})
	return p.Net
}

// in runs fn in a namespace, usually the host's.
func in(t testing.TB, netns string, fn func() error) error {
	t.Helper()
	return namespace.Do(netns, fn)
}

// sh runs a shell script in a namespace and returns its output.
func sh(t testing.TB, netns, script string) string {
	t.Helper()
	out, err := exec.Command("nsenter", "--net="+netns, "--", "sh", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
	return strings.TrimSpace(string(out))
}

// options are those of a daemon with a configuration directory and plug-ins of its own.
func options(t testing.TB) network.Options {
	t.Helper()
	dir := t.TempDir()
	o := network.Options{
		ConfDir:  filepath.Join(dir, "net.d"),
		BinDirs:  []string{filepath.Join(dir, "bin"), testenv.CNIBin(t)},
		CacheDir: filepath.Join(dir, "cache"),
		Timeout:  20 * time.Second,
	}
	for _, d := range []string{o.ConfDir, o.BinDirs[0]} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// bridged adds the built-in network.
func bridged(t testing.TB, o network.Options, subnets ...string) network.Options {
	t.Helper()
	o.Bridge = network.Bridge{Enabled: true, Name: "pods0", Subnets: subnets, DataDir: filepath.Join(filepath.Dir(o.ConfDir), "ipam")}
	return o
}

func open(t testing.TB, o network.Options) *network.Network {
	t.Helper()
	n, err := network.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// pod is an attached pod.
type pod struct {
	netns string
	*network.Attachment
}

// attach makes a pod on the host and attaches it; it goes with the test.
func (h *host) attach(n *network.Network, name string, ports ...network.PortMapping) pod {
	h.t.Helper()
	p := pod{netns: h.namespace(name)}
	a, err := n.Plan(network.Pod{ID: podID(name), Name: name, Namespace: "default", UID: "uid-" + name, NetNS: p.netns, PortMappings: ports})
	if err != nil {
		h.t.Fatal(err)
	}
	p.Attachment = a
	if err := in(h.t, h.netns, func() error { return n.Attach(h.t.Context(), a) }); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { h.detach(n, a) })
	return p
}

// detach runs in cleanups too, when the test's own context has ended.
func (h *host) detach(n *network.Network, a *network.Attachment) {
	h.t.Helper()
	if err := in(h.t, h.netns, func() error { return n.Detach(context.Background(), a) }); err != nil {
		h.t.Error(err)
	}
}

// podID is a 64-digit id made from a name.
func podID(name string) string { return fmt.Sprintf("%064x", name) }

// eventually waits until cond holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 10 s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// files lists a directory tree's files.
func files(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, strings.TrimPrefix(path, dir+"/"))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// moveLink moves a network interface from one namespace to another.
func moveLink(from, name, to string) error {
	f, err := os.Open(to)
	if err != nil {
		return err
	}
	defer f.Close()
	return namespace.Do(from, func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkSetNsFd(link, int(f.Fd()))
	})
}
