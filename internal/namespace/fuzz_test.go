// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
)

// FuzzSysctl: what is let through stays below /proc/sys/net and its kin.
func FuzzSysctl(f *testing.F) {
	for _, s := range []string{"net.ipv4.conf.eth0/100.rp_filter", "net/../kernel/x", "kernel.shm_rmid_forced", "net..x", "net/ipv4/./x", "kernel.shm/../../hostname", "", "net.\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if err := ValidateSysctls(map[string]string{name: "1"}, false, false); err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("of the wrong class: %v", err)
			}
			return
		}
		s, err := parseSysctl(name)
		if err != nil || !filepath.IsLocal(string(s)) || filepath.Clean(string(s)) != string(s) {
			t.Errorf("%q is %q, %v", name, s, err)
		}
	})
}

func FuzzTargets(f *testing.F) {
	for _, s := range []string{"localhost:80", "127.0.0.1:0", "[::1]:65535", "::1:1", "x:1", "[fe80::1%lo]:1", "1.2.3.4:70000", ""} {
		f.Add("tcp", s)
	}
	f.Add("udp", "127.0.0.1:1")
	f.Fuzz(func(t *testing.T, network, addr string) {
		to, err := parseTargets(network, addr)
		if err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("of the wrong class: %v", err)
		}
		if err == nil && len(to) == 0 {
			t.Errorf("%q %q leads nowhere", network, addr)
		}
	})
}
