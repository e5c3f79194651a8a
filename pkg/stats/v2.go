// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"bytes"
	"path/filepath"
	"strings"

	"github.com/embedcri/embedcri/internal/cgroup"
)

// readV2 reads a cgroup of the v2 tree at root (Documentation/admin-guide/cgroup-v2.rst). A controller that is not enabled there
// leaves its numbers at 0.
func readV2(fs *fileSet, root, path string, buf []byte, s *Sample) error {
	dir := filepath.Join(root, path)
	var err error
	read := func(name string) []byte {
		if err != nil {
			return nil
		}
		var b []byte
		b, err = fs.read(dir, name, buf)
		return b
	}
	value := func(name string) uint64 {
		n, _ := number(read(name))
		return n
	}

	stat := read("cpu.stat") // is there even without the controller
	if err == nil && stat == nil {
		return errGone
	}
	eachKey(stat, func(key []byte, v uint64) {
		switch string(key) {
		case "usage_usec":
			s.CPU.Usage = v * 1000
		case "user_usec":
			s.CPU.User = v * 1000
		case "system_usec":
			s.CPU.System = v * 1000
		case "nr_periods":
			s.CPU.Periods = v
		case "nr_throttled":
			s.CPU.Throttled = v
		case "throttled_usec":
			s.CPU.ThrottledTime = v * 1000
		}
	})

	m := &s.Memory
	m.Usage = value("memory.current")
	eachKey(read("memory.stat"), func(key []byte, v uint64) {
		switch string(key) {
		case "anon":
			m.RSS = v
		case "file":
			m.Cache = v
		case "file_mapped":
			m.Mapped = v
		case "kernel": // since 5.18
			m.Kernel = v
		case "active_file":
			m.ActiveFile = v
		case "inactive_file":
			m.InactiveFile = v
		case "pgfault":
			m.Faults = v
		case "pgmajfault":
			m.MajorFaults = v
		}
	})
	m.WorkingSet = m.Usage - min(m.Usage, m.InactiveFile)
	m.Limit = value("memory.max")
	m.MaxUsage = value("memory.peak") // since 5.19
	eachKey(read("memory.events"), func(key []byte, v uint64) {
		switch string(key) {
		case "max":
			m.FailCount = v
		case "oom_kill":
			m.OOMKills = v
		}
	})
	if b := read("memory.swap.current"); b != nil {
		swap, _ := number(b)
		m.Swap = &swap
	}
	if limit, ok := number(read("memory.swap.max")); ok {
		m.SwapLimit = &limit
	}

	s.Processes.Threads = value("pids.current")
	s.Processes.ThreadsMax = value("pids.max")
	s.Processes.Count = uint64(bytes.Count(read("cgroup.procs"), []byte("\n")))
	eachKey(read("cgroup.stat"), func(key []byte, v uint64) {
		// Members of cgroups below are not in cgroup.procs. Containers have such only while a command is executed in them, or
		// if they manage cgroups themselves.
		if string(key) != "nr_descendants" || v == 0 || root != cgroup.Root || strings.Contains(path, ":") {
			return
		}
		if pids, err := cgroup.FromOCI(path).Pids(); err == nil {
			s.Processes.Count = uint64(len(pids))
		}
	})

	var ds devices
	ds.ioStat(read("io.stat"))
	s.Devices = ds

	s.CPU.Pressure = pressure(read("cpu.pressure"))
	m.Pressure = pressure(read("memory.pressure"))
	s.IO = pressure(read("io.pressure"))
	return err
}
