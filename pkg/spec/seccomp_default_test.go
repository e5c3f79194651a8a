// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// verdict is what a profile does with a system call that has value as each of its arguments: the action, with its errno.
func verdict(t *testing.T, p *specs.LinuxSeccomp, call string, value uint64) string {
	t.Helper()
	with := func(action specs.LinuxSeccompAction, errno *uint) string {
		if errno == nil {
			return string(action)
		}
		return string(action) + strconv.Itoa(int(*errno))
	}
	for _, r := range p.Syscalls {
		if !slices.Contains(r.Names, call) {
			continue
		}
		all := true
		for _, a := range r.Args {
			switch a.Op {
			case specs.OpEqualTo:
				all = all && value == a.Value
			case specs.OpMaskedEqual:
				all = all && value&a.Value == a.ValueTwo
			case specs.OpLessThan:
				all = all && value < a.Value
			default:
				t.Fatalf("%s: operator %s is not looked at by this test", call, a.Op)
			}
		}
		if all {
			return with(r.Action, r.ErrnoRet)
		}
	}
	return with(p.DefaultAction, p.DefaultErrnoRet)
}

// TestDefaultSeccompSame: the shorter profile decides as containerd's does, for each call and all values near those that it names.
func TestDefaultSeccompSame(t *testing.T) {
	for _, caps := range [][]string{nil, {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_TIME", "CAP_SYS_CHROOT"}} {
		s := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}}
		want, got := seccomp.DefaultProfile(s), defaultSeccomp(s, Node{})
		if len(got.Syscalls) >= len(want.Syscalls) {
			t.Errorf("%d rules became %d", len(want.Syscalls), len(got.Syscalls))
		}
		if got.DefaultAction != want.DefaultAction || !slices.Equal(got.Architectures, want.Architectures) {
			t.Errorf("%v %v, want %v %v", got.DefaultAction, got.Architectures, want.DefaultAction, want.Architectures)
		}
		names, values := map[string]bool{"no such call": true}, []uint64{0, math.MaxUint64}
		for _, r := range want.Syscalls {
			for _, n := range r.Names {
				names[n] = true
			}
			for _, a := range r.Args {
				values = append(values, a.Value, a.Value-1, a.Value+1, a.ValueTwo)
				for bit := range 64 {
					values = append(values, a.Value^1<<bit)
				}
			}
		}
		for n := range names {
			for _, v := range values {
				g, w := verdict(t, got, n, v), verdict(t, want, n, v)
				if g != w && (!narrow[n] || g != verdict(t, want, n, v&math.MaxUint32)) { // the kernel takes v for its lower half
					t.Errorf("%s(%#x): %s, want %s", n, v, g, w)
				}
			}
		}
	}
}

// TestDefaultSeccompX32: a kernel without x32 needs no rules for it; the other architectures stay.
func TestDefaultSeccompX32(t *testing.T) {
	s := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}}
	with, without := defaultSeccomp(s, Node{}).Architectures, defaultSeccomp(s, Node{NoX32: true}).Architectures
	if slices.Contains(without, specs.ArchX32) || !slices.Equal(without, slices.DeleteFunc(with, func(a specs.Arch) bool { return a == specs.ArchX32 })) {
		t.Errorf("with x32 %v, without %v", with, without)
	}
}

// TestMerge: what matches stays exactly the same, whatever the values.
func TestMerge(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		in, merged := map[uint64]bool{}, []masked{}
		for range random.IntN(12) {
			v := random.Uint64N(64)
			in[v] = true
			merged = append(merged, masked{math.MaxUint32, v})
		}
		merged = merge(merged)
		for x := range uint64(128) {
			if got := slices.ContainsFunc(merged, func(m masked) bool { return x&m.mask == m.value }); got != in[x] {
				t.Fatalf("%d of %v: %v, in %v", x, in, got, merged)
			}
		}
	}
	if got := merge([]masked{{math.MaxUint32, 0}, {math.MaxUint32, 8}, {math.MaxUint32, 0x20000}, {math.MaxUint32, 0x20008}}); len(got) != 1 {
		t.Errorf("personality's values: %v", got)
	}
}
