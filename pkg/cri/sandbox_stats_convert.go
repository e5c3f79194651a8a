// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/pkg/sandbox"
	"github.com/embedcri/embedcri/pkg/stats"
)

// podStats is what a pod uses: what its own cgroup says if it has one, else the sum of its containers.
func podStats(p pod, used sandbox.PodStats, layerDir string) *runtimeapi.PodSandboxStats {
	cfg := p.Config()
	linux := &runtimeapi.LinuxPodSandboxStats{}
	whole := used.Sample
	var processes uint64
	if used.Init {
		processes++
	}
	var members []*stats.Sample
	for _, c := range p.Containers() {
		u, ok := used.Containers[c.ID()]
		if !ok {
			continue
		}
		linux.Containers = append(linux.Containers, containerStats(c, u, layerDir))
		if u.Sample != nil && u.HasCgroup {
			members = append(members, u.Sample)
			processes += u.Processes.Count
		}
	}
	if used.Cgroup == "" || whole == nil || !whole.HasCgroup {
		whole = sum(members)
	}
	linux.Cpu, linux.Memory, linux.Io = cpuUsage(whole), memoryUsage(whole), ioUsage(whole)
	linux.Process = &runtimeapi.ProcessUsage{Timestamp: whole.At.UnixNano(), ProcessCount: u64(processes)}
	if s := used.Sample; s != nil && s.Interfaces != nil {
		linux.Network = networkUsage(s)
	}
	return &runtimeapi.PodSandboxStats{
		Attributes: &runtimeapi.PodSandboxAttributes{
			Id: p.ID(), Metadata: cfg.GetMetadata(), Labels: cfg.GetLabels(), Annotations: cfg.GetAnnotations(),
		},
		Linux: linux,
	}
}

// sum adds up containers. A pod without any uses nothing, and it is known that it does: the kubelet reads CPU and memory without
// asking whether they are there. Pressure and limits do not add up.
func sum(members []*stats.Sample) *stats.Sample {
	s := &stats.Sample{At: time.Now(), HasCgroup: true}
	var rate uint64
	rates := len(members) > 0
	for _, m := range members {
		if m.At.Before(s.At) {
			s.At = m.At // nothing in it is older than it says
		}
		s.CPU.Usage += m.CPU.Usage
		if m.CPU.NanoCores == nil {
			rates = false
		} else {
			rate += *m.CPU.NanoCores
		}
		s.Memory.Usage += m.Memory.Usage
		s.Memory.WorkingSet += m.Memory.WorkingSet
		s.Memory.RSS += m.Memory.RSS
		s.Memory.Faults += m.Memory.Faults
		s.Memory.MajorFaults += m.Memory.MajorFaults
	}
	if rates {
		s.CPU.NanoCores = &rate
	}
	return s
}

// defaultInterface is the name that the first network's interface has in a pod: the kubelet and CNI's users count on it.
const defaultInterface = "eth0"

func networkUsage(s *stats.Sample) *runtimeapi.NetworkUsage {
	u := &runtimeapi.NetworkUsage{Timestamp: s.At.UnixNano()}
	for _, i := range s.Interfaces {
		usage := &runtimeapi.NetworkInterfaceUsage{
			Name:    i.Name,
			RxBytes: u64(i.RxBytes), RxErrors: u64(i.RxErrors),
			TxBytes: u64(i.TxBytes), TxErrors: u64(i.TxErrors),
		}
		if i.Name == defaultInterface {
			u.DefaultInterface = usage
		} else {
			u.Interfaces = append(u.Interfaces, usage)
		}
	}
	return u
}
