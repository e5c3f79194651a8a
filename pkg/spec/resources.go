// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const resField = "linux.resources."

// resources sets the cgroup limits.
func (b *builder) resources() error {
	r := b.g.Config.Linux.Resources
	if err := applyResources(r, b.c.GetLinux().GetResources(), b.in.Node); err != nil {
		return err
	}
	if b.in.Handler.PidsLimit > 0 {
		b.g.SetLinuxResourcesPidsLimit(b.in.Handler.PidsLimit)
	}
	return nil
}

// applyResources writes what the CRI asks for into an OCI resource list. A zero of the CRI means "not specified" and leaves
// what is there.
func applyResources(to *specs.LinuxResources, from *runtimeapi.LinuxContainerResources, node Node) error {
	if from == nil {
		return nil
	}
	if err := validateResources(from); err != nil {
		return err
	}
	applyCPU(to, from)
	applyMemory(to, from, node)
	if err := applyHugepages(to, from.GetHugepageLimits(), node); err != nil {
		return err
	}
	return applyUnified(to, from.GetUnified(), node)
}

// validateResources refuses what no kernel accepts. -1 is the kernel's own word for "no limit".
func validateResources(r *runtimeapi.LinuxContainerResources) error {
	for _, f := range []struct {
		name       string
		value, min int64
	}{
		{"cpu_period", r.GetCpuPeriod(), 0},
		{"cpu_quota", r.GetCpuQuota(), -1},
		{"cpu_shares", r.GetCpuShares(), 0},
		{"memory_limit_in_bytes", r.GetMemoryLimitInBytes(), -1},
		{"memory_swap_limit_in_bytes", r.GetMemorySwapLimitInBytes(), -1},
	} {
		if f.value < f.min {
			return invalid(resField+f.name, "is %d; the least is %d", f.value, f.min)
		}
	}
	if mem, swap := r.GetMemoryLimitInBytes(), r.GetMemorySwapLimitInBytes(); swap > 0 && mem > swap {
		return invalid(resField+"memory_swap_limit_in_bytes", "%d counts memory and swap together and is less than memory_limit_in_bytes %d", swap, mem)
	}
	for _, f := range []struct{ name, list string }{{"cpuset_cpus", r.GetCpusetCpus()}, {"cpuset_mems", r.GetCpusetMems()}} {
		// The kernel's list format (cpuset(7)); it judges the numbers itself.
		if strings.Trim(f.list, "0123456789,-") != "" {
			return invalid(resField+f.name, "%q is not a list of numbers and ranges", f.list)
		}
	}
	return nil
}

func applyCPU(to *specs.LinuxResources, from *runtimeapi.LinuxContainerResources) {
	cpu := specs.LinuxCPU{}
	if to.CPU != nil {
		cpu = *to.CPU
	}
	if v := uint64(from.GetCpuPeriod()); v != 0 {
		cpu.Period = &v
	}
	if v := from.GetCpuQuota(); v != 0 {
		cpu.Quota = &v
	}
	if v := uint64(from.GetCpuShares()); v != 0 {
		cpu.Shares = &v // the OCI runtime turns shares into cpu.weight on cgroup v2
	}
	if v := from.GetCpusetCpus(); v != "" {
		cpu.Cpus = v
	}
	if v := from.GetCpusetMems(); v != "" {
		cpu.Mems = v
	}
	if cpu != (specs.LinuxCPU{}) {
		to.CPU = &cpu
	}
}

// applyMemory: both the CRI's and the OCI's swap limit count memory and swap together. Without one the container gets no swap
// at all, and a memory limit that changes takes the swap limit with it. A swap limit without a memory limit means nothing and
// is left out, as the kubelet expects (kuberuntime: "if memory limit is 0, memory swap limit is ignored"). Where the kernel has
// no swap controller, naming a limit would fail the container.
func applyMemory(to *specs.LinuxResources, from *runtimeapi.LinuxContainerResources, node Node) {
	mem := specs.LinuxMemory{}
	if to.Memory != nil {
		mem = *to.Memory
	}
	limit, swap := from.GetMemoryLimitInBytes(), from.GetMemorySwapLimitInBytes()
	if limit != 0 {
		mem.Limit = &limit
		if swap == 0 {
			swap = limit
		}
	}
	if swap != 0 && mem.Limit != nil && node.Swap {
		mem.Swap = &swap
	}
	if mem != (specs.LinuxMemory{}) {
		to.Memory = &mem
	}
}

// applyHugepages: the kubelet names every page size it knows, with limit 0 for those not asked for. A size that this node's
// controller does not have cannot be used anyway, so its 0 is kept by doing nothing; any other limit on it is refused.
func applyHugepages(to *specs.LinuxResources, limits []*runtimeapi.HugepageLimit, node Node) error {
	for i, l := range limits {
		field := fmt.Sprintf("%shugepage_limits[%d]", resField, i)
		if l.GetPageSize() == "" || strings.ContainsAny(l.GetPageSize(), "/.\x00") {
			return invalid(field+".page_size", "%q is not a page size such as 2MB", l.GetPageSize())
		}
		if !node.Hugetlb || !slices.Contains(node.HugepageSizes, l.GetPageSize()) {
			if l.GetLimit() == 0 {
				continue
			}
			return unsupported(field, "limits pages of %s, but the node has no hugetlb controller for them", l.GetPageSize())
		}
		h := specs.LinuxHugepageLimit{Pagesize: l.GetPageSize(), Limit: l.GetLimit()}
		same := func(o specs.LinuxHugepageLimit) bool { return o.Pagesize == h.Pagesize }
		if at := slices.IndexFunc(to.HugepageLimits, same); at >= 0 {
			to.HugepageLimits[at] = h
		} else {
			to.HugepageLimits = append(to.HugepageLimits, h)
		}
	}
	return nil
}

// applyUnified passes cgroup v2 files through by name. They do not exist under v1, and guessing an equivalent would limit
// something else than was asked.
func applyUnified(to *specs.LinuxResources, unified map[string]string, node Node) error {
	if len(unified) == 0 {
		return nil
	}
	if !node.CgroupV2 {
		return unsupported(resField+"unified", "is for cgroup v2, but the node runs cgroup v1")
	}
	for k := range unified {
		// controller.file: the OCI runtime joins the key to the cgroup's path.
		if c, f, ok := strings.Cut(k, "."); !ok || c == "" || f == "" || strings.ContainsAny(k, "/\x00\n") {
			return invalid(resField+"unified", "key %q is not the name of a cgroup file", k)
		}
	}
	if to.Unified == nil {
		to.Unified = make(map[string]string, len(unified))
	}
	maps.Copy(to.Unified, unified)
	return nil
}

// oomScore sets oom_score_adj, always: left out, the container would inherit the daemon's own, which a service manager keeps
// close to -1000 so that the kernel spares it. Without CAP_SYS_RESOURCE nobody may go below the floor that he started with
// (kernel: fs/proc/base.c, __set_oom_adj, EACCES), so a lower wish is clamped to it and reported.
func (b *builder) oomScore() error {
	asked := b.c.GetLinux().GetResources().GetOomScoreAdj()
	if asked < -1000 || asked > 1000 {
		return invalid(resField+"oom_score_adj", "is %d; it goes from -1000 to 1000", asked)
	}
	given := max(int(asked), b.in.Node.OOMScoreAdjMin)
	if given != int(asked) {
		b.clamp(resField+"oom_score_adj", asked, given, "the daemon lacks CAP_SYS_RESOURCE and may not go lower")
	}
	b.g.SetProcessOOMScoreAdj(given)
	return nil
}
