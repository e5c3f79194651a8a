// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// masqueradeCheck is the age at which the built-in network's nftables table is made again: others flush the packet filter, when a
// firewall is reloaded say, and pods would have no way out until the node is restarted.
const masqueradeCheck = 10 * time.Second

// masquerade keeps the table that lets pods of the built-in network out of the node: two rules for all pods, rather than two for
// each as the bridge plug-in would make. The plug-in also runs iptables at each DEL, whichever back end it was told to use, which
// leaves empty tables behind.
type masquerade struct {
	mu   sync.Mutex
	made time.Time
}

// ensure makes the table, unless that was done a moment ago. It is one transaction, and changes nothing where all is in place.
func (m *masquerade) ensure(ctx context.Context, b Bridge) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.made) < masqueradeCheck {
		return nil
	}
	enter(ctx, "masquerading")
	if err := nft(ctx, b.masquerading()); err != nil {
		return fmt.Errorf("let pods out of bridge %s: %w", b.Name, err)
	}
	m.made = time.Now()
	return nil
}

// table is the name of the bridge's own nftables table, of family inet.
func (b Bridge) table() string { return "embedcri_" + b.Name }

// masquerading is the script that makes the bridge's table: what a pod sends to beyond its bridge has the node's address, unless
// it is multicast.
func (b Bridge) masquerading() string {
	var s strings.Builder
	fmt.Fprintf(&s, `add table inet %[1]s
add chain inet %[1]s postrouting { type nat hook postrouting priority 100 ; policy accept ; }
flush chain inet %[1]s postrouting
`, b.table())
	for _, subnet := range b.Subnets {
		family, multicast := "ip", "224.0.0.0/4"
		if p, err := netip.ParsePrefix(subnet); err == nil && p.Addr().Is6() { // validate has parsed it
			family, multicast = "ip6", "ff00::/8"
		}
		fmt.Fprintf(&s, "add rule inet %[1]s postrouting %[2]s saddr %[3]s %[2]s daddr != { %[3]s, %[4]s } masquerade\n",
			b.table(), family, subnet, multicast)
	}
	return s.String()
}

// removeMasquerading is the script that undoes it; it fails where there is nothing.
func (b Bridge) removeMasquerading() string { return "delete table inet " + b.table() }

// nft has the nft program run a script, all of it or nothing.
func nft(ctx context.Context, script string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil && ctx.Err() != nil: // killed for it
		return fmt.Errorf("nft: %w", context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("nft: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}
