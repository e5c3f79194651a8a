// SPDX-License-Identifier: Apache-2.0

package testnode

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// World lists everything on the machine that a pod, a container or an image of this node may have left: mounts, cgroups, files,
// records, addresses, interfaces, snapshots. Two equal lists mean that nothing was leaked between them. It needs no daemon.
func (n *Node) World() []string {
	var all []string
	for _, dir := range []string{n.Dir, n.State, n.BPF} {
		for _, m := range mountsBelow(dir) {
			all = append(all, "mount "+m)
		}
	}
	root := filepath.Join(n.Dir, "root")
	for what, patterns := range map[string][]string{
		"cgroup":    {"/sys/fs/cgroup/*" + n.Parent + "/*/", "/sys/fs/cgroup" + n.Parent + "/*/"},
		"bundle":    {n.State + "/task/*"},
		"exec file": {n.State + "/task/*/exec-*"},
		"pod files": {n.State + "/pod/*"},
		"pins":      {n.State + "/ns/*"},
		"runtime":   {n.State + "/runtime/*/*"},
		"record":    {root + "/state/*/*", root + "/state/.*-*"},
		"address":   {root + "/cni/networks/*/*.*.*.*", root + "/cni/networks/*/*:*"},
		"CNI cache": {root + "/cni/results/*"},
		"snapshot":  {root + "/image/overlayfs/snapshots/*", root + "/image/native/snapshots/*"},
		"temporary": {n.State + "/tmp/*", n.tempDir() + "/*"},
		"download":  {root + "/image/content/ingest/*"},
	} {
		for _, p := range patterns {
			found, _ := filepath.Glob(p) // only a bad pattern is an error
			for _, f := range found {
				all = append(all, what+" "+f)
			}
		}
	}
	ifs, _ := net.Interfaces()
	for _, i := range ifs {
		if strings.HasPrefix(i.Name, "veth") && masterOf(i.Name) == n.Bridge {
			all = append(all, "interface "+i.Name)
		}
	}
	slices.Sort(all)
	return all
}

// WithoutSnapshots leaves out of a world what is only collected half a second after it has been let go of.
func WithoutSnapshots(world []string) []string {
	return slices.DeleteFunc(slices.Clone(world), func(s string) bool { return strings.HasPrefix(s, "snapshot ") })
}

// Quiet waits until the world has not changed for a while, and returns it.
func (n *Node) Quiet() []string {
	was, since := n.World(), time.Now()
	for time.Since(since) < 1500*time.Millisecond { // garbage is collected within a second
		time.Sleep(20 * time.Millisecond)
		if now := n.World(); !slices.Equal(now, was) {
			was, since = now, time.Now()
		}
	}
	return was
}

// Settled waits until the world is as it was, and says what is too much or too little if it does not get there in time. What is
// taken away in the background is given a while. part, if not nil, picks what of the two worlds is compared.
func (n *Node) Settled(was []string, part func([]string) []string, patience time.Duration) error {
	if part == nil {
		part = func(w []string) []string { return w }
	}
	was = part(was)
	deadline := time.Now().Add(patience)
	for {
		now := part(n.World())
		if slices.Equal(now, was) {
			return nil
		}
		if time.Now().After(deadline) {
			var diff []string
			for _, s := range now {
				if !slices.Contains(was, s) {
					diff = append(diff, "too much: "+s)
				}
			}
			for _, s := range was {
				if !slices.Contains(now, s) {
					diff = append(diff, "missing: "+s)
				}
			}
			return fmt.Errorf("after %v:\n%s", patience, strings.Join(diff, "\n"))
		}
		time.Sleep(5 * time.Millisecond) // poll to the deadline
	}
}

// Descriptors counts the open files of a process.
func Descriptors(pid int) int {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(entries)
}

// Keeper returns the pid of this node's keeper process; 0 if there is none.
func (n *Node) Keeper() int {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		args, err := os.ReadFile(p + "/cmdline")
		if err == nil && strings.HasPrefix(string(args), "embedcri-keeper\x00"+n.State+"/") {
			var pid int
			if _, err := fmt.Sscan(filepath.Base(p), &pid); err == nil {
				return pid
			}
		}
	}
	return 0
}
