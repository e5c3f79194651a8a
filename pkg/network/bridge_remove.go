// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
)

// defaultDataDir is host-local's own default.
const defaultDataDir = "/var/lib/cni/networks"

// Remove takes away what the plug-ins leave on a node when the last pod has gone: the bridge,
// host-local's empty directory, and their nftables tables if no other network uses them. It is for
// `embedcri cleanup`, never for a running daemon. A bridge with pods on it is an error. Idempotent.
// net.ipv4.ip_forward stays: who else relies on it by now, nobody knows.
func (b Bridge) Remove(ctx context.Context) error {
	if err := b.validate(); err != nil {
		return fmt.Errorf("remove default network: %w", err)
	}
	if err := removeBridge(b.Name); err != nil {
		return fmt.Errorf("remove default network: %w", err)
	}
	dir := b.DataDir
	if dir == "" {
		dir = defaultDataDir
	}
	err := removeAllocations(filepath.Join(dir, b.Name))
	_ = nft(ctx, b.removeMasquerading()) // there is none, or no nft
	removeEmptyTables(ctx)
	if err != nil {
		return fmt.Errorf("remove default network: %w", err)
	}
	return nil
}

func removeBridge(name string) error {
	link, err := netlink.LinkByName(name)
	var absent netlink.LinkNotFoundError
	if errors.As(err, &absent) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", name, err)
	}
	if link.Type() != "bridge" {
		return fmt.Errorf("%s is no bridge but a %s", name, link.Type())
	}
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list ports of bridge %s: %w", name, err)
	}
	for _, l := range links {
		if l.Attrs().MasterIndex == link.Attrs().Index {
			return fmt.Errorf("bridge %s is in use by %s", name, l.Attrs().Name)
		}
	}
	if err := netlink.LinkDel(link); err != nil {
		return fmt.Errorf("delete bridge %s: %w", name, err)
	}
	return nil
}

// removeAllocations removes host-local's bookkeeping and leaves the directory if an address is
// still allocated: a file whose name is an address.
func removeAllocations(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != "lock" && !strings.HasPrefix(e.Name(), "last_reserved_ip.") {
			return fmt.Errorf("address %s is still allocated in %s", e.Name(), dir)
		}
	}
	return os.RemoveAll(dir)
}

// removeEmptyTables deletes the tables of the bridge and portmap plug-ins. They are shared by all
// networks of the machine, so each goes in a transaction that the kernel refuses, as a whole, while
// a chain of pods' rules has one in it (EBUSY, net/netfilter/nf_tables_api.c: nf_tables_delchain).
// That, a table that is not there, and a machine without nft are all fine.
func removeEmptyTables(ctx context.Context) {
	const hostport = `
		flush chain %[1]s cni_hostport prerouting
		flush chain %[1]s cni_hostport output
		flush chain %[1]s cni_hostport hostports_all
		delete chain %[1]s cni_hostport hostports
		delete chain %[1]s cni_hostport hostip_hostports
		delete chain %[1]s cni_hostport masquerading
		delete table %[1]s cni_hostport`
	const masquerade = `
		flush chain inet cni_plugins_masquerade postrouting
		delete chain inet cni_plugins_masquerade masq_checks
		delete table inet cni_plugins_masquerade`
	for _, script := range []string{fmt.Sprintf(hostport, "ip"), fmt.Sprintf(hostport, "ip6"), masquerade} {
		_ = nft(ctx, script)
	}
}
