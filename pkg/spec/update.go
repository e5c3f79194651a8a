// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"maps"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Update lays a change of resources (UpdateContainerResources) over those that a container has now, and returns the complete
// new set for the OCI runtime, without the device rules: an update must not touch them. Now is not changed.
//
// A zero means "leave as it is" throughout. Two things cannot change while a container lives: oom_score_adj, which is no cgroup
// limit and is not looked at (the kubelet repeats the first value in each update), and hugepage limits, which OCI runtimes do
// not update; another value there is errdefs.ErrFailedPrecondition.
func Update(now *specs.LinuxResources, change *runtimeapi.LinuxContainerResources, node Node) (*specs.LinuxResources, error) {
	if change == nil {
		return nil, invalid("linux", "is missing")
	}
	out := &specs.LinuxResources{}
	if now != nil {
		*out = *now
	}
	out.Devices = nil
	out.Unified = maps.Clone(out.Unified)
	out.HugepageLimits = slices.Clone(out.HugepageLimits)
	before := slices.Clone(out.HugepageLimits)
	if err := applyResources(out, change, node); err != nil {
		return nil, err
	}
	if !slices.Equal(before, out.HugepageLimits) {
		return nil, unsupported(resField+"hugepage_limits", "cannot change while the container lives")
	}
	return out, nil
}

// Resources puts what an OCI specification says into the words of the CRI, for ContainerStatus.resources: what was really
// applied, which may be less than what was asked.
func Resources(r *specs.LinuxResources, oomScoreAdj *int) *runtimeapi.LinuxContainerResources {
	out := &runtimeapi.LinuxContainerResources{}
	if oomScoreAdj != nil {
		out.OomScoreAdj = int64(*oomScoreAdj)
	}
	if r == nil {
		return out
	}
	if c := r.CPU; c != nil {
		out.CpuPeriod, out.CpuQuota, out.CpuShares = int64(value(c.Period)), value(c.Quota), int64(value(c.Shares))
		out.CpusetCpus, out.CpusetMems = c.Cpus, c.Mems
	}
	if m := r.Memory; m != nil {
		out.MemoryLimitInBytes, out.MemorySwapLimitInBytes = value(m.Limit), value(m.Swap)
	}
	for _, h := range r.HugepageLimits {
		out.HugepageLimits = append(out.HugepageLimits, &runtimeapi.HugepageLimit{PageSize: h.Pagesize, Limit: h.Limit})
	}
	out.Unified = maps.Clone(r.Unified)
	return out
}

// value is what a pointer points at, zero for none.
func value[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}
