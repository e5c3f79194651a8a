// SPDX-License-Identifier: Apache-2.0

package testnode

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/embedcri/embedcri/internal/testenv"
)

// leftovers says what of this node is still on the machine. What the kernel takes down by itself (a veth whose namespace is
// going, a zombie that pid 1 has to reap) is given a moment.
func (n *Node) leftovers() []string {
	deadline := time.Now().Add(testenv.Slow(10 * time.Second))
	for {
		left := n.look()
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		time.Sleep(20 * time.Millisecond) // poll to the deadline
	}
}

func (n *Node) look() []string {
	var left []string
	for _, dir := range []string{n.Dir, n.State, n.BPF} {
		for _, m := range mountsBelow(dir) {
			left = append(left, "mount "+m)
		}
	}
	if _, err := os.Stat(n.BPF); err == nil {
		left = append(left, "bpffs directory "+n.BPF)
	}
	// The parent itself is nobody's: containers' cgroups in it are.
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + n.Parent + "/*")
	more, _ := filepath.Glob("/sys/fs/cgroup" + n.Parent + "/*")
	for _, d := range append(dirs, more...) {
		if st, err := os.Stat(d); err == nil && st.IsDir() {
			left = append(left, "cgroup "+d)
		}
	}
	if len(left) == 0 {
		n.removeParents()
	}
	if n.NetNS != "" {
		left = append(left, n.NetworkState()...) // all of it is this node's
	} else {
		left = append(left, n.interfaces()...)
	}
	left = append(left, n.processes()...)
	temporary, _ := filepath.Glob(filepath.Join(n.tempDir(), "*"))
	for _, f := range temporary {
		left = append(left, "temporary file "+f)
	}
	ips, _ := filepath.Glob(filepath.Join(n.Dir, "root", "cni", "networks", "*", "*.*.*.*"))
	for _, ip := range ips {
		left = append(left, "address "+ip)
	}
	return left
}

// tempDir is where the daemon's temporary files go that it has no better place for, instead of /tmp, so that those that stay are seen.
func (n *Node) tempDir() string { return filepath.Join(n.Dir, "tmp") }

// interfaces finds the node's bridge and what is plugged into it, among the machine's other interfaces.
func (n *Node) interfaces() []string {
	var left []string
	ifs, _ := net.Interfaces()
	for _, i := range ifs {
		if i.Name == n.Bridge {
			left = append(left, "bridge "+i.Name)
		}
		if strings.HasPrefix(i.Name, "veth") && i.Flags&net.FlagUp != 0 && masterOf(i.Name) == n.Bridge {
			left = append(left, "interface "+i.Name)
		}
	}
	return left
}

func masterOf(name string) string {
	p, _ := os.Readlink("/sys/class/net/" + name + "/master")
	return filepath.Base(p)
}

// processes finds what was started from this node's directories or runs in its cgroups.
func (n *Node) processes() []string {
	var left []string
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		cmdline, err := os.ReadFile(p + "/cmdline")
		if err != nil {
			continue
		}
		cg, _ := os.ReadFile(p + "/cgroup")
		args := strings.ReplaceAll(string(cmdline), "\x00", " ")
		if strings.Contains(args, "embedcri-"+n.Name) || strings.Contains(string(cg), n.Parent+"/") {
			stat, _ := os.ReadFile(p + "/stat")
			left = append(left, fmt.Sprintf("process %s: %s (%.60s)", filepath.Base(p), args, stat))
		}
	}
	return left
}

// mountsBelow lists the mount points at or below dir.
func mountsBelow(dir string) []string {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	var ms []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 4 && (f[4] == dir || strings.HasPrefix(f[4], dir+"/")) {
			ms = append(ms, f[4])
		}
	}
	return ms
}
