// SPDX-License-Identifier: Apache-2.0

package testnode

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/embedcri/embedcri/internal/namespace"
)

// ownNet gives the node a network namespace, pinned outside of the directories that the daemon looks after.
func (n *Node) ownNet() {
	n.T.Helper()
	if err := namespace.Prepare(n.netDir()); err != nil {
		n.T.Fatal(err)
	}
	n.NetNS = n.namespace("node")
}

// netDir holds the pins of the namespaces that are the test's, not the daemon's.
func (n *Node) netDir() string { return n.State + "-net" }

// namespace makes an empty network namespace, with lo up, that goes with the node.
func (n *Node) namespace(name string) string {
	n.T.Helper()
	p, err := namespace.Create(filepath.Join(n.netDir(), name), namespace.Spec{Net: true})
	if err != nil {
		n.T.Fatal(err)
	}
	n.nets = append(n.nets, name)
	return p.Net
}

// removeNets ends all namespaces that the test has made.
func (n *Node) removeNets() {
	for _, name := range n.nets {
		if err := namespace.Delete(filepath.Join(n.netDir(), name)); err != nil {
			n.T.Error(err)
		}
	}
	if n.NetNS != "" {
		if err := errors.Join(namespace.Unprepare(n.netDir()), os.Remove(n.netDir())); err != nil {
			n.T.Error(err)
		}
	}
}

// InNet runs f, on a thread in the node's network namespace if it has one of its own. Programs and sockets made by f stay there.
func (n *Node) InNet(f func() error) error {
	if n.NetNS == "" {
		return f()
	}
	return namespace.Do(n.NetNS, f)
}

// Sh runs a shell script in a network namespace and returns what it prints.
func (n *Node) Sh(netns, script string) string {
	n.T.Helper()
	cmd := exec.Command("sh", "-ec", script)
	var out []byte
	if err := namespace.Do(netns, func() (err error) { out, err = cmd.CombinedOutput(); return err }); err != nil {
		n.T.Fatalf("%s: %v: %s", script, err, out)
	}
	return strings.TrimSpace(string(out))
}

// SecondHost makes another machine on a wire to the node, which is 192.0.2.1 and 2001:db8::1 there; the other is .2 and ::2. It
// returns the other's network namespace. The node needs Options.OwnNet.
func (n *Node) SecondHost() string {
	n.T.Helper()
	other := n.namespace("second-host")
	n.Sh(n.NetNS, "ip link add wire0 type veth peer name wire1 netns "+other)
	n.Sh(n.NetNS, "ip addr add 192.0.2.1/24 dev wire0; ip addr add 2001:db8::1/64 dev wire0 nodad; ip link set wire0 up")
	n.Sh(other, "ip addr add 192.0.2.2/24 dev wire1; ip addr add 2001:db8::2/64 dev wire1 nodad; ip link set wire1 up")
	return other
}

// NetworkState lists, with Options.OwnNet, each interface but lo and wire0, and each table, chain and rule of the packet filter
// but empty tables. nft sees what iptables makes as well, where that is the nft variant (Debian's is).
func (n *Node) NetworkState() []string {
	n.T.Helper()
	var state []string
	for line := range strings.Lines(n.Sh(n.NetNS, "ip -o link show; nft list ruleset")) {
		if index, rest, ok := strings.Cut(line, ": "); ok && !strings.HasPrefix(index, "\t") { // "7: veth1@if2: <BROADCAST…"
			name, _, _ := strings.Cut(rest, ":")
			line = "interface " + strings.Split(name, "@")[0]
		}
		if strings.TrimSuffix(line, "\n") == "}" && strings.HasPrefix(state[len(state)-1], "table ") {
			state = state[:len(state)-1] // iptables makes the tables that it looks at
		}
		line = strings.TrimSpace(line)
		if line != "" && line != "}" && line != "interface lo" && line != "interface wire0" {
			state = append(state, line)
		}
	}
	return state
}
