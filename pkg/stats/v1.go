// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"bytes"
	"path/filepath"

	"github.com/embedcri/embedcri/internal/cgroup"
)

// userHZ is the unit of times that the kernel shows to user space (sysconf(_SC_CLK_TCK)); 100 on every architecture that
// containers run on.
const (
	userHZ      = 100
	nanosPerUHZ = 1_000_000_000 / userHZ
)

// readV1 reads a cgroup of the v1 controllers below root. A controller that is not mounted leaves its numbers at 0.
func readV1(fs *fileSet, root, path string, buf []byte, s *Sample) error {
	dir := func(controller string) string { return filepath.Join(root, controller, path) }
	var err error
	read := func(controller, name string) []byte {
		if err != nil {
			return nil
		}
		var b []byte
		b, err = fs.read(dir(controller), name, buf)
		return b
	}
	value := func(controller, name string) uint64 {
		n, _ := number(read(controller, name))
		return n
	}

	usage := read("cpuacct", "cpuacct.usage")
	if err == nil && usage == nil {
		return errGone
	}
	s.CPU.Usage, _ = number(usage)
	eachKey(read("cpuacct", "cpuacct.stat"), func(key []byte, v uint64) {
		switch string(key) {
		case "user":
			s.CPU.User = v * nanosPerUHZ
		case "system":
			s.CPU.System = v * nanosPerUHZ
		}
	})
	eachKey(read("cpu", "cpu.stat"), func(key []byte, v uint64) {
		switch string(key) {
		case "nr_periods":
			s.CPU.Periods = v
		case "nr_throttled":
			s.CPU.Throttled = v
		case "throttled_time":
			s.CPU.ThrottledTime = v
		}
	})

	m := &s.Memory
	m.Usage = value("memory", "memory.usage_in_bytes")
	eachKey(read("memory", "memory.stat"), func(key []byte, v uint64) {
		// The total_ lines include what is below; cgroups are hierarchical since 5.11 at the latest.
		switch string(key) {
		case "total_cache":
			m.Cache = v
		case "total_rss":
			m.RSS = v
		case "total_mapped_file":
			m.Mapped = v
		case "total_active_file":
			m.ActiveFile = v
		case "total_inactive_file":
			m.InactiveFile = v
		case "total_pgfault":
			m.Faults = v
		case "total_pgmajfault":
			m.MajorFaults = v
		case "total_swap":
			swap := v
			m.Swap = &swap
		}
	})
	m.WorkingSet = m.Usage - min(m.Usage, m.InactiveFile)
	m.Limit = value("memory", "memory.limit_in_bytes")
	if both, ok := number(read("memory", "memory.memsw.limit_in_bytes")); ok && m.Limit != 0 {
		swap := both - min(both, m.Limit)
		m.SwapLimit = &swap
	}
	m.MaxUsage = value("memory", "memory.max_usage_in_bytes")
	m.FailCount = value("memory", "memory.failcnt")
	m.Kernel = value("memory", "memory.kmem.usage_in_bytes")
	eachKey(read("memory", "memory.oom_control"), func(key []byte, v uint64) {
		if string(key) == "oom_kill" {
			m.OOMKills = v
		}
	})

	s.Processes.Threads = value("pids", "pids.current")
	s.Processes.ThreadsMax = value("pids", "pids.max")
	s.Processes.Count = uint64(bytes.Count(read("pids", "cgroup.procs"), []byte("\n")))

	var ds devices
	ds.blkio(read("blkio", "blkio.throttle.io_service_bytes_recursive"), func(d *Device, write bool, v uint64) {
		if write {
			d.WriteBytes = v
		} else {
			d.ReadBytes = v
		}
	})
	ds.blkio(read("blkio", "blkio.throttle.io_serviced_recursive"), func(d *Device, write bool, v uint64) {
		if write {
			d.Writes = v
		} else {
			d.Reads = v
		}
	})
	s.Devices = ds

	// In hybrid mode systemd and runc make the same path in the v2 tree; pressure is there.
	s.CPU.Pressure = pressure(read("unified", "cpu.pressure"))
	m.Pressure = pressure(read("unified", "memory.pressure"))
	s.IO = pressure(read("unified", "io.pressure"))
	return err
}

// reader reads a cgroup's numbers into a Sample.
type reader func(fs *fileSet, root, path string, buf []byte, s *Sample) error

func readerOf(unified bool) reader {
	if unified {
		return readV2
	}
	return readV1
}

func defaultReader() reader { return readerOf(cgroup.Unified()) }
