// SPDX-License-Identifier: Apache-2.0

package cri

import (
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/pkg/sandbox"
	"github.com/embedcri/embedcri/pkg/stats"
)

// containerStats is what a container uses. layerDir is a directory on the file system of the writable layers.
func containerStats(c container, used sandbox.ContainerStats, layerDir string) *runtimeapi.ContainerStats {
	cfg := c.Config()
	out := &runtimeapi.ContainerStats{Attributes: &runtimeapi.ContainerAttributes{
		Id: c.ID(), Metadata: containerMetadata(cfg), Labels: cfg.GetLabels(), Annotations: cfg.GetAnnotations(),
	}}
	s := used.Sample
	if s == nil {
		return out
	}
	if s.HasCgroup {
		out.Cpu, out.Memory, out.Swap, out.Io = cpuUsage(s), memoryUsage(s), swapUsage(s), ioUsage(s)
	}
	if l := s.Layer; l != nil {
		out.WritableLayer = &runtimeapi.FilesystemUsage{
			Timestamp:  nanoseconds(l.At),
			FsId:       &runtimeapi.FilesystemIdentifier{Mountpoint: layerDir},
			UsedBytes:  u64(l.Bytes),
			InodesUsed: u64(l.Inodes),
		}
	}
	return out
}

func cpuUsage(s *stats.Sample) *runtimeapi.CpuUsage {
	u := &runtimeapi.CpuUsage{
		Timestamp: s.At.UnixNano(), UsageCoreNanoSeconds: u64(s.CPU.Usage), Psi: psi(s.CPU.Pressure),
	}
	if r := s.CPU.NanoCores; r != nil { // without it the kubelet computes its own
		u.UsageNanoCores = u64(*r)
	}
	return u
}

func memoryUsage(s *stats.Sample) *runtimeapi.MemoryUsage {
	m := s.Memory
	u := &runtimeapi.MemoryUsage{
		Timestamp:       s.At.UnixNano(),
		WorkingSetBytes: u64(m.WorkingSet), UsageBytes: u64(m.Usage), RssBytes: u64(m.RSS),
		PageFaults: u64(m.Faults), MajorPageFaults: u64(m.MajorFaults),
		Psi: psi(m.Pressure),
	}
	if m.Limit != 0 { // "memory limit - workingSetBytes": nothing to subtract from without a limit
		u.AvailableBytes = u64(m.Limit - min(m.Limit, m.WorkingSet))
	}
	return u
}

func swapUsage(s *stats.Sample) *runtimeapi.SwapUsage {
	m := s.Memory
	if m.Swap == nil {
		return nil
	}
	u := &runtimeapi.SwapUsage{Timestamp: s.At.UnixNano(), SwapUsageBytes: u64(*m.Swap)}
	if m.SwapLimit != nil {
		u.SwapAvailableBytes = u64(*m.SwapLimit - min(*m.SwapLimit, *m.Swap))
	}
	return u
}

func ioUsage(s *stats.Sample) *runtimeapi.IoUsage {
	if s.IO == nil {
		return nil
	}
	return &runtimeapi.IoUsage{Timestamp: s.At.UnixNano(), Psi: psi(s.IO)}
}

func psi(p *stats.Pressure) *runtimeapi.PsiStats {
	if p == nil {
		return nil
	}
	data := func(s stats.Stall) *runtimeapi.PsiData {
		return &runtimeapi.PsiData{Total: s.Total, Avg10: s.Avg10, Avg60: s.Avg60, Avg300: s.Avg300}
	}
	return &runtimeapi.PsiStats{Full: data(p.Full), Some: data(p.Some)}
}

func u64(v uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: v} }
