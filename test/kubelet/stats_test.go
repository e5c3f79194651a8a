// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// summary is what is used of the kubelet's /stats/summary (k8s.io/kubelet, pkg/apis/stats/v1alpha1).
type summary struct {
	Node struct {
		Runtime struct{ ImageFs *usage }
	}
	Pods []podStats
}

type podStats struct {
	PodRef       struct{ Name string }
	Containers   []containerStats
	CPU          *cpuStats
	Memory       *memoryStats
	Network      *struct{ RxBytes, TxBytes *uint64 }
	ProcessStats *struct {
		ProcessCount *uint64 `json:"process_count"`
	} `json:"process_stats"`
	EphemeralStorage *usage `json:"ephemeral-storage"`
}

type containerStats struct {
	Name         string
	CPU          *cpuStats
	Memory       *memoryStats
	Rootfs, Logs *usage
}

type cpuStats struct{ UsageNanoCores, UsageCoreNanoSeconds *uint64 }
type memoryStats struct{ UsageBytes, WorkingSetBytes, RSSBytes, PageFaults, MajorPageFaults *uint64 }
type usage struct{ UsedBytes, CapacityBytes, AvailableBytes, InodesUsed *uint64 }

// summary checks that nothing is missing in the kubelet's summary: with PodAndContainerStatsFromCRI all of it comes from the daemon.
func (k *kubelet) summary() {
	k.eventually("the summary is complete", time.Minute, func() error {
		var s summary
		if err := json.Unmarshal([]byte(k.mustGet("/stats/summary")), &s); err != nil {
			k.Fatal(err)
		}
		if fs := s.Node.Runtime.ImageFs; fs == nil || fs.UsedBytes == nil || fs.CapacityBytes == nil || fs.InodesUsed == nil {
			return fmt.Errorf("image file system %+v", fs)
		}
		for _, name := range running {
			i := slices.IndexFunc(s.Pods, func(p podStats) bool { return p.PodRef.Name == name+"-"+nodeName })
			if i < 0 {
				return fmt.Errorf("no pod %s", name)
			}
			if missing := s.Pods[i].missing(name == "host"); len(missing) > 0 {
				return fmt.Errorf("pod %s has no %s", name, strings.Join(missing, ", "))
			}
		}
		return nil
	})
}

// missing names what a pod's statistics lack.
func (p *podStats) missing(hostNetwork bool) []string {
	var names []string
	want := func(ok bool, name string) {
		if !ok {
			names = append(names, name)
		}
	}
	cpu := func(of string, c *cpuStats) {
		want(c != nil && c.UsageNanoCores != nil && c.UsageCoreNanoSeconds != nil, of+" CPU")
	}
	memory := func(of string, m *memoryStats) {
		want(m != nil && m.UsageBytes != nil && m.WorkingSetBytes != nil && m.RSSBytes != nil && m.PageFaults != nil && m.MajorPageFaults != nil, of+" memory")
	}
	cpu("pod's", p.CPU)
	memory("pod's", p.Memory)
	want(hostNetwork || p.Network != nil && p.Network.RxBytes != nil && p.Network.TxBytes != nil, "network")
	want(p.ProcessStats != nil && p.ProcessStats.ProcessCount != nil && *p.ProcessStats.ProcessCount > 0, "process count")
	want(p.EphemeralStorage != nil && p.EphemeralStorage.UsedBytes != nil, "ephemeral storage")
	want(len(p.Containers) > 0, "containers")
	for _, c := range p.Containers {
		cpu(c.Name, c.CPU)
		memory(c.Name, c.Memory)
		want(c.Rootfs != nil && c.Rootfs.UsedBytes != nil && c.Rootfs.InodesUsed != nil, c.Name+" rootfs")
		want(c.Logs != nil && c.Logs.UsedBytes != nil, c.Name+" logs")
	}
	return names
}

// cadvisorMetrics are those that dashboards and autoscalers are built on.
var cadvisorMetrics = []string{
	"container_cpu_usage_seconds_total", "container_cpu_user_seconds_total", "container_cpu_system_seconds_total",
	"container_memory_working_set_bytes", "container_memory_usage_bytes", "container_memory_rss", "container_memory_cache",
	"container_memory_failcnt", "container_memory_failures_total", "container_oom_events_total", "container_processes", "container_threads",
	"container_spec_memory_limit_bytes", "container_spec_cpu_quota", "container_spec_cpu_period", "container_spec_cpu_shares",
	"container_start_time_seconds", "container_last_seen", "container_cpu_cfs_periods_total", "container_cpu_cfs_throttled_periods_total",
}

func (k *kubelet) cadvisor() {
	k.eventually("/metrics/cadvisor is complete", time.Minute, func() error {
		text := k.mustGet("/metrics/cadvisor")
		for _, m := range cadvisorMetrics {
			if !hasSample(text, m, `container="web"`, `pod="web-`+nodeName+`"`, `namespace="default"`) {
				return fmt.Errorf("no %s of the container web", m)
			}
		}
		for _, m := range []string{"container_network_receive_bytes_total", "container_network_transmit_bytes_total"} {
			if !hasSample(text, m, `pod="web-`+nodeName+`"`, `interface="eth0"`) {
				return fmt.Errorf("no %s of the pod web", m)
			}
		}
		return nil
	})
}

// hasSample looks for a line of a metric with the given labels.
func hasSample(text, metric string, labels ...string) bool {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, metric+"{") && !slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(line, l) }) {
			return true
		}
	}
	return false
}
