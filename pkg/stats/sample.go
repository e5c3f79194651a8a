// SPDX-License-Identifier: Apache-2.0

package stats

import "time"

// Sample is what was measured of one target at one time. It is shared: nobody changes it.
type Sample struct {
	At time.Time // of CPU, Memory, Processes, Devices and Interfaces

	CPU       CPU
	Memory    Memory
	IO        *Pressure // nil without PSI
	Processes Processes
	Devices   []Device

	Interfaces []Interface // without the loopback; nil if the target has no network namespace
	HasCgroup  bool        // what is above Interfaces was measured

	Layer *Layer // the writable layer; nil if unknown, or not yet
	Open  *Open  // descriptors of the processes; nil if unknown, or not yet
}

// CPU is what a cgroup has used of the processors. Times are cumulative, in nanoseconds.
type CPU struct {
	Usage, User, System uint64
	Periods, Throttled  uint64  // enforcement periods of a quota, and those in which it was used up
	ThrottledTime       uint64  // nanoseconds
	NanoCores           *uint64 // nanoseconds of CPU time per second, over a second or more once there is one; nil at first
	Pressure            *Pressure
}

// Memory is in bytes, unless it is a count.
type Memory struct {
	Usage      uint64
	WorkingSet uint64 // usage less inactive file pages: what the kubelet's eviction goes by
	RSS        uint64 // anonymous memory, with transparent huge pages and (on v1) swap cache
	Cache      uint64
	Mapped     uint64 // files in page tables
	Kernel     uint64
	ActiveFile, InactiveFile,
	MaxUsage uint64
	Limit     uint64  // 0: none
	Swap      *uint64 // in use; nil without swap accounting
	SwapLimit *uint64 // of swap alone; nil: none

	Faults, MajorFaults uint64 // counts; Faults has both minor and major ones, as the kernel's pgfault has
	FailCount           uint64 // how often the limit was hit
	OOMKills            uint64 // processes that the OOM killer ended here
	Pressure            *Pressure
}

// Pressure is one file of PSI (Documentation/accounting/psi.rst).
type Pressure struct{ Some, Full Stall }

// Stall is how long tasks have waited for a resource.
type Stall struct {
	Total                uint64  // nanoseconds; the kernel has microseconds
	Avg10, Avg60, Avg300 float64 // percent of the time, over as many seconds
}

// Processes counts what runs in a cgroup.
type Processes struct {
	Count      uint64 // processes
	Threads    uint64 // tasks, which is what the limit is about
	ThreadsMax uint64 // 0: no limit
}

// Device is the traffic of a cgroup with one block device.
type Device struct {
	Major, Minor          uint32
	Name                  string // below /dev
	ReadBytes, WriteBytes uint64
	Reads, Writes         uint64
}

// Interface is one network interface's counters, seen from inside its namespace.
type Interface struct {
	Name                                    string
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// Layer is disk space that a container has written to.
type Layer struct {
	Bytes, Inodes uint64
	At            time.Time
}

// Open counts descriptors of all processes of a cgroup.
type Open struct {
	Descriptors, Sockets uint64
	Limit                int64 // init's soft limit (RLIMIT_NOFILE); -1: none
	HasLimit             bool
	At                   time.Time
}
