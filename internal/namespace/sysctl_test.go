// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestValidateSysctls(t *testing.T) {
	for _, c := range []struct {
		name             string
		hostNet, hostIPC bool
		ok               bool
	}{
		{"net.ipv4.tcp_syncookies", false, false, true},
		{"net.ipv4.tcp_syncookies", false, true, true},
		{"net.ipv4.tcp_syncookies", true, false, false},
		{"net/ipv4/tcp_syncookies", true, false, false},
		{"kernel.shm_rmid_forced", true, false, true},
		{"kernel.shm_rmid_forced", false, true, false},
		{"kernel.msgmax", false, false, true},
		{"kernel.sem", false, false, true},
		{"kernel.sem", false, true, false},
		{"kernel.sem_next_id", false, false, false},
		{"fs.mqueue.msg_max", false, false, true},
		{"fs.mqueue.msg_max", false, true, false},
		{"fs.mqueuex", false, false, false},
		{"fs.file-max", false, false, false},
		{"kernel.hostname", false, false, false},
		{"vm.swappiness", false, false, false},
		{"net", false, false, false},
		{"", false, false, false},
		{"net/../vm/swappiness", false, false, false},
		{"net/./ipv4/tcp_syncookies", false, false, false},
		{"net.//.vm.swappiness", false, false, false},
		{"net..ipv4", false, false, false},
		{"net.ipv4.x\x00", false, false, false},
	} {
		err := ValidateSysctls(map[string]string{c.name: "1"}, c.hostNet, c.hostIPC)
		if (err == nil) != c.ok {
			t.Errorf("%q, host net %v, host ipc %v: %v, want ok %v", c.name, c.hostNet, c.hostIPC, err, c.ok)
		}
		if err != nil && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), strings.Trim(c.name, "\x00"))) {
			t.Errorf("%q: error %q is of another class or does not name it", c.name, err)
		}
	}
}

func TestParseSysctl(t *testing.T) {
	for name, want := range map[string]struct {
		path         sysctl
		perInterface bool
	}{
		"net.ipv4.ip_forward":              {"net/ipv4/ip_forward", false},
		"net/ipv4/ip_forward":              {"net/ipv4/ip_forward", false},
		"net.ipv4.conf.eth0/100.rp_filter": {"net/ipv4/conf/eth0.100/rp_filter", true},
		"net/ipv4/conf/eth0.100/rp_filter": {"net/ipv4/conf/eth0.100/rp_filter", true},
		"net.ipv4.conf.all.rp_filter":      {"net/ipv4/conf/all/rp_filter", false},
		"net.ipv6.conf.default.accept_ra":  {"net/ipv6/conf/default/accept_ra", false},
		"net.ipv6.neigh.eth1.gc_stale_time": {
			"net/ipv6/neigh/eth1/gc_stale_time", true},
	} {
		got, err := parseSysctl(name)
		if err != nil || got != want.path || got.perInterface() != want.perInterface {
			t.Errorf("%q is %q (per interface %v), %v; want %+v", name, got, got.perInterface(), err, want)
		}
	}
}
