// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// payloadMark is in the environment of every container's process.
const payloadMark = "EMBEDCRI_BENCH_PAYLOAD=1"

// process is what /proc tells of one.
type process struct {
	pid     int
	cmdline string
	cgroups string
}

// processes lists all that are not zombies.
func processes() (all []process) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		cmdline, err := os.ReadFile(d + "/cmdline")
		if err != nil || len(cmdline) == 0 { // gone, a zombie, or the kernel's
			continue
		}
		cgroups, _ := os.ReadFile(d + "/cgroup")
		pid, _ := strconv.Atoi(filepath.Base(d))
		all = append(all, process{pid, string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})), string(cgroups)})
	}
	return all
}

func (p process) payload() bool {
	env, _ := os.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/environ")
	return slices.ContainsFunc(bytes.Split(env, []byte{0}), func(v []byte) bool { return string(v) == payloadMark })
}

// footprint is what processes take.
type footprint struct {
	Processes, Threads, FDs int
	PSS                     float64 // MB: proportional set size, shared pages divided among those who share them
}

func (f footprint) minus(g footprint) footprint {
	return footprint{f.Processes - g.Processes, f.Threads - g.Threads, f.FDs - g.FDs, f.PSS - g.PSS}
}

func footprintOf(pids []int) (f footprint) {
	for _, pid := range pids {
		dir := "/proc/" + strconv.Itoa(pid)
		rollup, err := os.ReadFile(dir + "/smaps_rollup")
		if err != nil {
			continue // gone
		}
		f.Processes++
		for line := range strings.Lines(string(rollup)) {
			if kb, ok := strings.CutPrefix(line, "Pss:"); ok {
				n, _ := strconv.ParseFloat(strings.Fields(kb)[0], 64)
				f.PSS += n * 1024 / 1e6
			}
		}
		tasks, _ := os.ReadDir(dir + "/task")
		fds, _ := os.ReadDir(dir + "/fd")
		f.Threads += len(tasks)
		f.FDs += len(fds)
	}
	return f
}

// cpuOf sums up the processor time of live threads in nanoseconds (/proc/PID/task/TID/schedstat, which is finer than a tick).
// A process's threads that have ended are not in it.
func cpuOf(pids []int) (ns float64) {
	for _, pid := range pids {
		stats, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/schedstat")
		for _, s := range stats {
			b, _ := os.ReadFile(s)
			if f := strings.Fields(string(b)); len(f) > 0 {
				n, _ := strconv.ParseFloat(f[0], 64)
				ns += n
			}
		}
	}
	return ns
}
