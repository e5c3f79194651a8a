// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
)

var opening atomic.Bool

// OpenAhead has the kernel make ready for a process to be put into a cgroup, in the background, while the program that will do it is
// still starting. The first such move after a while waits for an RCU grace period, 7 to 30 ms on an otherwise idle machine, as all
// forks and exits have to learn that they must take turns with it (percpu_down_write of cgroup_threadgroup_rwsem, by cgroup_attach_lock
// in kernel/cgroup/cgroup.c; the mount option favordynmods does without the wait, but is the node's to choose). Those that follow
// within another grace period do not wait.
//
// It does so by putting this process where it is. That moves nothing, and what fails only costs the time that would have been saved.
func OpenAhead() {
	if opening.Swap(true) {
		return // somebody is about to
	}
	go func() {
		defer opening.Store(false)
		if procs := ownProcs(); procs != "" {
			_ = os.WriteFile(procs, []byte(strconv.Itoa(os.Getpid())), 0)
		}
	}()
}

// ownProcs is the cgroup.procs of the cgroup that this process is in; empty if it cannot be seen. It is looked up each time: written
// to a cgroup that it has left, its pid would bring it back.
func ownProcs() string {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3) // hierarchy-ID:controller-list:cgroup-path, cgroups(7)
		if len(f) != 3 {
			continue
		}
		dir := ""
		switch {
		case f[1] == "freezer": // on version 1: the one without limits and statistics
			dir = f[1]
		case f[0] != "0" || !Unified():
			continue
		}
		procs := filepath.Join(Root, dir, f[2], "cgroup.procs")
		if _, err := os.Stat(procs); err == nil {
			return procs
		}
	}
	return ""
}
