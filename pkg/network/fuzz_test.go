// SPDX-License-Identifier: Apache-2.0

package network

import (
	"net/netip"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// FuzzRate: a pod's author writes the annotation, and may write 1e999999999.
func FuzzRate(f *testing.F) {
	for _, s := range []string{"10M", "1k", "0", "-1", "1e15", "1e16", "1e999999999", "1e-999999999", "9223372036854775808", "1Ei", "", "x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		begun := time.Now()
		v, err := parseRate(s)
		if d := time.Since(begun); d > 2*time.Second {
			t.Errorf("%q took %v", s, d)
		}
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("of the wrong class: %v", err)
			}
			return
		}
		if v < 1e3 || v > 1e15 {
			t.Errorf("%q is %d", s, v)
		}
	})
}

func FuzzPodCIDR(f *testing.F) {
	for _, s := range []string{"10.0.0.0/24", "10.0.0.0/24,fd00::/64", " 10.1.2.3/24 , ", ",", "10.0.0.0", "fe80::1%eth0/64"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := parsePodCIDR(s)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("of the wrong class: %v", err)
			}
			return
		}
		if d == nil {
			return
		}
		for _, r := range d.PodCIDRRanges {
			if p, err := netip.ParsePrefix(r); err != nil || p != p.Masked() {
				t.Errorf("%q gives %q, %v", s, r, err)
			}
		}
	})
}
