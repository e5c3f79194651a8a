// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"
)

// Bridge is the built-in network: pods on a Linux bridge of the node, masqueraded towards the
// outside, with host ports. It needs the reference plug-ins bridge, host-local and portmap, and
// takes bandwidth along if that is there. It makes a single node work; pods of different nodes do
// not reach each other.
type Bridge struct {
	Enabled bool
	// Name is that of the bridge and of the network. Daemons that run side by side need different
	// ones, and different subnets. At most 15 bytes.
	Name string
	// Subnets to allocate from: one IPv4, one IPv6 or one of each; the first is that of the primary
	// IP.
	Subnets []string
	// DataDir is where host-local keeps its allocations. Default /var/lib/cni/networks.
	DataDir string
	// MTU of the pods' interfaces; 0: the kernel's default.
	MTU int
}

var bridgeName = regexp.MustCompile(`^[a-zA-Z0-9_.-]+$`)

func (b Bridge) validate() error {
	if b.Name == "" {
		return errors.New("the bridge has no name")
	}
	if err := utils.ValidateInterfaceName(b.Name); err != nil {
		return err
	}
	if !bridgeName.MatchString(b.Name) { // it is part of names in nft scripts
		return fmt.Errorf("bridge name %q has characters other than letters, digits, dots, dashes and underscores", b.Name)
	}
	if len(b.Subnets) == 0 || len(b.Subnets) > 2 {
		return fmt.Errorf("%d subnets; one or two are needed", len(b.Subnets))
	}
	var v4, v6 int
	for _, s := range b.Subnets {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return err
		}
		if p != p.Masked() {
			return fmt.Errorf("subnet %s has host bits set", s)
		}
		if p.Addr().Is4() {
			v4++
		} else {
			v6++
		}
	}
	if v4 > 1 || v6 > 1 {
		return errors.New("two subnets of one address family")
	}
	return nil
}

// Ways into the kernel's packet filter, by the names that the reference plug-ins have for them.
const (
	nftables = "nftables"
	iptables = "iptables"
)

// features of the node that shape the built-in network.
type features struct {
	filter    string // nftables, iptables or "" (neither works)
	bandwidth bool
}

// list renders the network. Without a packet filter pods have no way out of the node and no host
// ports, and still reach each other and the node.
func (b Bridge) list(f features) (*libcni.NetworkConfigList, error) {
	type object = map[string]any
	var ranges [][]object
	var routes []object
	for _, s := range b.Subnets {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, err
		}
		ranges = append(ranges, []object{{"subnet": s}})
		dst := "0.0.0.0/0"
		if p.Addr().Is6() {
			dst = "::/0"
		}
		routes = append(routes, object{"dst": dst})
	}
	ipam := object{"type": "host-local", "ranges": ranges, "routes": routes}
	if b.DataDir != "" {
		ipam["dataDir"] = b.DataDir
	}
	bridge := object{
		"type": "bridge", "bridge": b.Name,
		// isGateway also turns on forwarding on the node.
		"isGateway": true,
		// A pod may reach itself through its own host port or service.
		"hairpinMode": true,
		"ipam":        ipam,
	}
	if b.MTU != 0 {
		bridge["mtu"] = b.MTU
	}
	plugins := []object{bridge}
	if f.filter == iptables { // with nftables there is a table for all pods: masquerade.go
		bridge["ipMasq"], bridge["ipMasqBackend"] = true, f.filter
	}
	if f.filter != "" {
		plugins = append(plugins, object{
			"type": "portmap", "capabilities": object{"portMappings": true},
			"snat": true, "backend": f.filter,
		})
	}
	if f.bandwidth {
		plugins = append(plugins, object{"type": "bandwidth", "capabilities": object{"bandwidth": true}})
	}
	raw, err := json.Marshal(object{"cniVersion": "1.1.0", "name": b.Name, "plugins": plugins})
	if err != nil {
		return nil, err
	}
	return libcni.NetworkConfFromBytes(raw)
}

// features finds out what the built-in network can be made of here.
func (n *Network) features() features {
	_, err := n.exec.FindInPath("bandwidth", n.opts.BinDirs)
	return features{filter: n.filter.name(), bandwidth: err == nil}
}

// filterProbe remembers what packetFilter found. Nothing is not remembered: the machine was too busy for an answer, or somebody
// has yet to install a tool.
type filterProbe struct {
	mu    sync.Mutex
	found string
}

func (p *filterProbe) name() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.found == "" {
		p.found = packetFilter()
	}
	return p.found
}

// packetFilter picks the way of the plug-ins into netfilter that works here: nft where the tool and
// the kernel can do what they ask for, for it is one transaction per pod and independent of
// everybody's iptables lock; else iptables.
func packetFilter() string {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	// --check goes through the kernel's verification and commits nothing. NAT chains in all the
	// families that bridge and portmap use.
	nft := exec.CommandContext(ctx, "nft", "--check", "-f", "-")
	nft.Stdin = strings.NewReader(`
		add table inet embedcri_probe
		add chain inet embedcri_probe a { type nat hook postrouting priority 100 ; }
		add rule inet embedcri_probe a masquerade
		add table ip embedcri_probe
		add chain ip embedcri_probe a { type nat hook prerouting priority -100 ; }
		add rule ip embedcri_probe a tcp dport 1 dnat to 192.0.2.1:1
	`)
	if nft.Run() == nil {
		return nftables
	}
	if exec.CommandContext(ctx, "iptables", "-w", "-t", "nat", "-S", "POSTROUTING").Run() == nil {
		return iptables
	}
	return ""
}
