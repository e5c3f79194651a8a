// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"strconv"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/pkg/stats"
)

// The names, types and labels below are cAdvisor's (github.com/google/cadvisor, metrics/prometheus.go), as far as the kubelet turns
// them on: dashboards and alerts go by them. A metric's value is an integer in the CRI, so seconds are whole ones.

const (
	counter = runtimeapi.MetricType_COUNTER
	gauge   = runtimeapi.MetricType_GAUGE
)

// one makes a family of one value and no labels of its own.
func one(kind runtimeapi.MetricType, name, help string, value func(m *measured) uint64) family {
	return family{name: name, help: help, kind: kind, values: func(m *measured, emit func(uint64, ...string)) { emit(value(m)) }}
}

func wholeSeconds(nanos uint64) uint64 { return nanos / uint64(time.Second) }

// stalled makes a family for one total of PSI; nothing without PSI.
func stalled(name, help string, of func(m *measured) *stats.Pressure, total func(p *stats.Pressure) uint64) family {
	return family{name: name, help: help, kind: counter, values: func(m *measured, emit func(uint64, ...string)) {
		if p := of(m); p != nil {
			emit(wholeSeconds(total(p)))
		}
	}}
}

func stallFull(p *stats.Pressure) uint64 { return p.Full.Total }
func stallSome(p *stats.Pressure) uint64 { return p.Some.Total }

func cpuPressure(m *measured) *stats.Pressure    { return m.CPU.Pressure }
func memoryPressure(m *measured) *stats.Pressure { return m.Memory.Pressure }
func ioPressure(m *measured) *stats.Pressure     { return m.IO }

// cgroupFamilies are told of containers and of pods.
var cgroupFamilies = []family{
	one(gauge, "container_last_seen", "Last time a container was seen by the exporter", func(m *measured) uint64 { return uint64(m.At.Unix()) }),
	one(gauge, "container_start_time_seconds", "Start time of the container since unix epoch in seconds.", func(m *measured) uint64 { return uint64(m.startedAt) }),

	one(counter, "container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", func(m *measured) uint64 { return wholeSeconds(m.CPU.User) }),
	one(counter, "container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", func(m *measured) uint64 { return wholeSeconds(m.CPU.System) }),
	{
		name: "container_cpu_usage_seconds_total", help: "Cumulative cpu time consumed in seconds.", kind: counter, labels: []string{"cpu"},
		values: func(m *measured, emit func(uint64, ...string)) { emit(wholeSeconds(m.CPU.Usage), "total") },
	},
	one(counter, "container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", func(m *measured) uint64 { return m.CPU.Periods }),
	one(counter, "container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", func(m *measured) uint64 { return m.CPU.Throttled }),
	one(counter, "container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.", func(m *measured) uint64 { return wholeSeconds(m.CPU.ThrottledTime) }),

	one(gauge, "container_memory_cache", "Number of bytes of page cache memory.", func(m *measured) uint64 { return m.Memory.Cache }),
	one(gauge, "container_memory_rss", "Size of RSS in bytes.", func(m *measured) uint64 { return m.Memory.RSS }),
	one(gauge, "container_memory_kernel_usage", "Size of kernel memory allocated in bytes.", func(m *measured) uint64 { return m.Memory.Kernel }),
	one(gauge, "container_memory_mapped_file", "Size of memory mapped files in bytes.", func(m *measured) uint64 { return m.Memory.Mapped }),
	one(gauge, "container_memory_swap", "Container swap usage in bytes.", func(m *measured) uint64 {
		if m.Memory.Swap == nil {
			return 0
		}
		return *m.Memory.Swap
	}),
	one(counter, "container_memory_failcnt", "Number of memory usage hits limits", func(m *measured) uint64 { return m.Memory.FailCount }),
	one(gauge, "container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed", func(m *measured) uint64 { return m.Memory.Usage }),
	one(gauge, "container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes", func(m *measured) uint64 { return m.Memory.MaxUsage }),
	one(gauge, "container_memory_working_set_bytes", "Current working set in bytes.", func(m *measured) uint64 { return m.Memory.WorkingSet }),
	one(gauge, "container_memory_total_active_file_bytes", "Current total active file in bytes.", func(m *measured) uint64 { return m.Memory.ActiveFile }),
	one(gauge, "container_memory_total_inactive_file_bytes", "Current total inactive file in bytes.", func(m *measured) uint64 { return m.Memory.InactiveFile }),
	{
		name: "container_memory_failures_total", help: "Cumulative count of memory allocation failures.", kind: counter,
		labels: []string{"failure_type", "scope"},
		values: func(m *measured, emit func(uint64, ...string)) {
			for _, scope := range []string{"container", "hierarchy"} { // one cgroup with all below it: both are the same
				emit(m.Memory.Faults, "pgfault", scope)
				emit(m.Memory.MajorFaults, "pgmajfault", scope)
			}
		},
	},
	one(counter, "container_oom_events_total", "Count of out of memory events observed for the container", func(m *measured) uint64 { return m.Memory.OOMKills }),

	stalled("container_pressure_cpu_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to CPU congestion.", cpuPressure, stallFull),
	stalled("container_pressure_cpu_waiting_seconds_total", "Total time duration tasks in the container have waited due to CPU congestion.", cpuPressure, stallSome),
	stalled("container_pressure_memory_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to memory congestion.", memoryPressure, stallFull),
	stalled("container_pressure_memory_waiting_seconds_total", "Total time duration tasks in the container have waited due to memory congestion.", memoryPressure, stallSome),
	stalled("container_pressure_io_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to IO congestion.", ioPressure, stallFull),
	stalled("container_pressure_io_waiting_seconds_total", "Total time duration tasks in the container have waited due to IO congestion.", ioPressure, stallSome),
}

// fromDevices makes a family of one value for each block device.
func fromDevices(name, help string, value func(d *stats.Device) uint64) family {
	return family{name: name, help: help, kind: counter, labels: []string{"device"}, values: func(m *measured, emit func(uint64, ...string)) {
		for i := range m.Devices {
			emit(value(&m.Devices[i]), m.Devices[i].Name)
		}
	}}
}

// fromFS makes a family of one value of the writable layer's file system.
func fromFS(name, help string, value func(m *measured) (uint64, bool)) family {
	return family{name: name, help: help, kind: gauge, labels: []string{"device"}, values: func(m *measured, emit func(uint64, ...string)) {
		if m.fs == nil {
			return
		}
		if v, ok := value(m); ok {
			emit(v, m.fs.Device)
		}
	}}
}

// fromOpen makes a family of what is known of descriptors.
func fromOpen(name, help string, value func(o *stats.Open) uint64) family {
	return family{name: name, help: help, kind: gauge, values: func(m *measured, emit func(uint64, ...string)) {
		if m.Open != nil {
			emit(value(m.Open))
		}
	}}
}

// defaultCPUPeriod is the kernel's, in microseconds, of a container that was given none.
const defaultCPUPeriod = 100_000

// containerFamilies are told of containers only.
var containerFamilies = []family{
	fromFS("container_fs_inodes_free", "Number of available Inodes", func(m *measured) (uint64, bool) { return m.fs.InodesFree, true }),
	fromFS("container_fs_inodes_total", "Number of Inodes", func(m *measured) (uint64, bool) { return m.fs.Inodes, true }),
	fromFS("container_fs_limit_bytes", "Number of bytes that can be consumed by the container on this filesystem.", func(m *measured) (uint64, bool) { return m.fs.Bytes, true }),
	fromFS("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", func(m *measured) (uint64, bool) {
		if m.Layer == nil {
			return 0, false
		}
		return m.Layer.Bytes, true
	}),
	fromDevices("container_fs_reads_bytes_total", "Cumulative count of bytes read", func(d *stats.Device) uint64 { return d.ReadBytes }),
	fromDevices("container_fs_reads_total", "Cumulative count of reads completed", func(d *stats.Device) uint64 { return d.Reads }),
	fromDevices("container_fs_writes_bytes_total", "Cumulative count of bytes written", func(d *stats.Device) uint64 { return d.WriteBytes }),
	fromDevices("container_fs_writes_total", "Cumulative count of writes completed", func(d *stats.Device) uint64 { return d.Writes }),
	{
		name: "container_blkio_device_usage_total", help: "Blkio Device bytes usage", kind: counter,
		labels: []string{"device", "major", "minor", "operation"},
		values: func(m *measured, emit func(uint64, ...string)) {
			for _, d := range m.Devices {
				major, minor := strconv.Itoa(int(d.Major)), strconv.Itoa(int(d.Minor))
				emit(d.ReadBytes, d.Name, major, minor, "Read")
				emit(d.WriteBytes, d.Name, major, minor, "Write")
			}
		},
	},

	one(gauge, "container_processes", "Number of processes running inside the container.", func(m *measured) uint64 { return m.Processes.Count }),
	one(gauge, "container_threads", "Number of threads running inside the container", func(m *measured) uint64 { return m.Processes.Threads }),
	one(gauge, "container_threads_max", "Maximum number of threads allowed inside the container, infinity if value is zero", func(m *measured) uint64 { return m.Processes.ThreadsMax }),
	fromOpen("container_file_descriptors", "Number of open file descriptors for the container.", func(o *stats.Open) uint64 { return o.Descriptors }),
	fromOpen("container_sockets", "Number of open sockets for the container.", func(o *stats.Open) uint64 { return o.Sockets }),
	{
		name: "container_ulimits_soft", help: "Soft ulimit values for the container root process. Unlimited if -1, except priority and nice",
		kind: gauge, labels: []string{"ulimit"},
		values: func(m *measured, emit func(uint64, ...string)) {
			if o := m.Open; o != nil && o.HasLimit && o.Limit >= 0 { // the CRI has no negative values, and -1 as a huge one would be a lie
				emit(uint64(o.Limit), "max_open_files")
			}
		},
	},

	one(gauge, "container_spec_cpu_period", "CPU period of the container.", func(m *measured) uint64 {
		if p := m.resources.GetCpuPeriod(); p > 0 {
			return uint64(p)
		}
		return defaultCPUPeriod
	}),
	{
		name: "container_spec_cpu_quota", help: "CPU quota of the container.", kind: gauge,
		values: func(m *measured, emit func(uint64, ...string)) {
			if q := m.resources.GetCpuQuota(); q > 0 { // none: not told, as by cAdvisor
				emit(uint64(q))
			}
		},
	},
	one(gauge, "container_spec_cpu_shares", "CPU share of the container.", func(m *measured) uint64 { return uint64(max(m.resources.GetCpuShares(), 0)) }),
	one(gauge, "container_spec_memory_limit_bytes", "Memory limit for the container.", func(m *measured) uint64 { return uint64(max(m.resources.GetMemoryLimitInBytes(), 0)) }),
	one(gauge, "container_spec_memory_reservation_limit_bytes", "Memory reservation limit for the container.", func(*measured) uint64 { return 0 }),
	one(gauge, "container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.", func(m *measured) uint64 { return uint64(max(m.resources.GetMemorySwapLimitInBytes(), 0)) }),
}

// fromInterfaces makes a family of one value for each network interface.
func fromInterfaces(name, help string, value func(i *stats.Interface) uint64) family {
	return family{name: name, help: help, kind: counter, labels: []string{"interface"}, values: func(m *measured, emit func(uint64, ...string)) {
		for i := range m.Interfaces {
			emit(value(&m.Interfaces[i]), m.Interfaces[i].Name)
		}
	}}
}

// networkFamilies are told of pods only.
var networkFamilies = []family{
	fromInterfaces("container_network_receive_bytes_total", "Cumulative count of bytes received", func(i *stats.Interface) uint64 { return i.RxBytes }),
	fromInterfaces("container_network_receive_packets_total", "Cumulative count of packets received", func(i *stats.Interface) uint64 { return i.RxPackets }),
	fromInterfaces("container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving", func(i *stats.Interface) uint64 { return i.RxDropped }),
	fromInterfaces("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", func(i *stats.Interface) uint64 { return i.RxErrors }),
	fromInterfaces("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", func(i *stats.Interface) uint64 { return i.TxBytes }),
	fromInterfaces("container_network_transmit_packets_total", "Cumulative count of packets transmitted", func(i *stats.Interface) uint64 { return i.TxPackets }),
	fromInterfaces("container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting", func(i *stats.Interface) uint64 { return i.TxDropped }),
	fromInterfaces("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", func(i *stats.Interface) uint64 { return i.TxErrors }),
}
