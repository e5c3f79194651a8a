// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"math"
	"math/bits"
	"slices"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// defaultSeccomp is the profile that RuntimeDefault stands for: containerd's, in fewer words. The OCI runtime compiles a profile anew
// for every container and every exec, and libseccomp takes longer than in proportion to the number of its rules: with containerd's,
// most of the CPU time of a runc exec.
//
// Where the kernel has no x32 ABI, a system call of that ABI, which would have been refused, ends its thread instead, as one of any
// architecture that a profile does not name (SCMP_FLTATR_ACT_BADARCH). Everything else is decided as before.
func defaultSeccomp(s *specs.Spec, n Node) *specs.LinuxSeccomp {
	p := seccomp.DefaultProfile(s)
	if n.NoX32 {
		p.Architectures = slices.DeleteFunc(p.Architectures, func(a specs.Arch) bool { return a == specs.ArchX32 })
	}
	p.Syscalls = mergeValues(p.Syscalls)
	return p
}

// narrow are the system calls whose first argument is of 32 bits (net/socket.c: int family; kernel/exec_domain.c: unsigned int
// personality): the kernel does not look at the rest of the register, so a rule need not either.
var narrow = map[string]bool{"socket": true, "personality": true}

// mergeValues puts rules about single values of such an argument together where a mask can say the same: 8 and 12 are "8, not looking
// at bit 2". What the kernel does on a call is the same before and after.
func mergeValues(rules []specs.LinuxSyscall) []specs.LinuxSyscall {
	var out []specs.LinuxSyscall
	done := make([]bool, len(rules))
	for i, r := range rules {
		if done[i] {
			continue
		}
		if !singleValue(r) {
			out = append(out, r)
			continue
		}
		var values []masked
		for j := i; j < len(rules); j++ {
			if sameBut(r, rules[j]) {
				values, done[j] = append(values, masked{math.MaxUint32, rules[j].Args[0].Value}), true
			}
		}
		for _, v := range merge(values) {
			one := r
			one.Args = []specs.LinuxSeccompArg{v.arg()}
			out = append(out, one)
		}
	}
	return out
}

// singleValue tells whether a rule is about one value of one narrow argument.
func singleValue(r specs.LinuxSyscall) bool {
	return len(r.Names) == 1 && narrow[r.Names[0]] && len(r.Args) == 1 && r.Args[0].Index == 0 && r.Args[0].Op == specs.OpEqualTo &&
		r.Args[0].Value <= math.MaxUint32
}

// sameBut tells whether two rules about single values differ in nothing but the value.
func sameBut(a, b specs.LinuxSyscall) bool {
	return singleValue(a) && singleValue(b) && a.Names[0] == b.Names[0] && a.Action == b.Action &&
		(a.ErrnoRet == b.ErrnoRet || a.ErrnoRet != nil && b.ErrnoRet != nil && *a.ErrnoRet == *b.ErrnoRet)
}

// masked stands for all x with x & mask == value, of the first argument.
type masked struct{ mask, value uint64 }

// arg is SCMP_CMP_MASKED_EQ, with the mask first (seccomp_rule_add(3)), or plainly SCMP_CMP_EQ.
func (m masked) arg() specs.LinuxSeccompArg {
	if m.mask == math.MaxUint32 {
		return specs.LinuxSeccompArg{Value: m.value, Op: specs.OpEqualTo}
	}
	return specs.LinuxSeccompArg{Value: m.mask, ValueTwo: m.value, Op: specs.OpMaskedEqual}
}

// merge replaces two that differ in one bit by one that does not look at it, for as long as there are such.
func merge(all []masked) []masked {
	for i := 0; i < len(all); i++ {
		for j := i + 1; j < len(all); j++ {
			differ := all[i].value ^ all[j].value
			if all[i].mask != all[j].mask || bits.OnesCount64(differ) > 1 { // none: said twice
				continue
			}
			all[i] = masked{all[i].mask &^ differ, all[i].value &^ differ}
			all = slices.Delete(all, j, j+1)
			i = -1 // what has become of it may go with an earlier one
			break
		}
	}
	return all
}
