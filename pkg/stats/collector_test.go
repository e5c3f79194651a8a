// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/cgroup"
	"github.com/embedcri/embedcri/internal/namespace"
	"github.com/embedcri/embedcri/internal/testenv"
)

var controllers = []string{"cpu", "cpuacct", "memory", "pids", "blkio", "freezer", "unified"}

// newCgroup makes a cgroup in all hierarchies and returns its path.
func newCgroup(t testing.TB, name string) string {
	t.Helper()
	path := fmt.Sprintf("/embedcri-stats-%d/%s", os.Getpid(), name)
	for _, dir := range dirs(path) {
		if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if cgroup.Unified() { // what cannot be enabled is not measured
			for _, d := range []string{cgroup.Root, filepath.Dir(dir)} {
				for _, c := range []string{"+cpu", "+memory", "+pids", "+io"} {
					_ = os.WriteFile(filepath.Join(d, "cgroup.subtree_control"), []byte(c), 0)
				}
			}
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			deadline := time.Now().Add(5 * time.Second)
			for err := os.Remove(dir); err != nil && !os.IsNotExist(err); err = os.Remove(dir) {
				if time.Now().After(deadline) { // a zombie that pid 1 has yet to reap
					t.Errorf("remove: %v", err)
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			_ = os.Remove(filepath.Dir(dir)) // empty after the last
		})
	}
	return path
}

func dirs(path string) []string {
	if cgroup.Unified() {
		return []string{filepath.Join(cgroup.Root, path)}
	}
	var out []string
	for _, c := range controllers {
		if _, err := os.Stat(filepath.Join(cgroup.Root, c)); err == nil {
			out = append(out, filepath.Join(cgroup.Root, c, path))
		}
	}
	return out
}

// startIn starts a shell in a cgroup.
func startIn(t testing.TB, path, script string) *exec.Cmd {
	t.Helper()
	var enter strings.Builder
	for _, d := range dirs(path) {
		fmt.Fprintf(&enter, "echo $$ > %s/cgroup.procs; ", d)
	}
	cmd := exec.Command("sh", "-c", enter.String()+"echo ready; "+script)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	ready, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := ready.Read(make([]byte, 6)); err != nil { // it is in all of them
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if stderr.Len() > 0 {
			t.Logf("the shell says: %s", &stderr)
		}
	})
	return cmd
}

func get(c *Collector, t Target) *Sample { return c.Get([]Target{t})[0] }

// eventually polls f to a deadline.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestLive measures a shell that burns all of a processor.
func TestLive(t *testing.T) {
	testenv.Require(t, testenv.Root)
	path := newCgroup(t, "live")
	c := New(Options{Fresh: time.Millisecond, Layer: func(context.Context, string) (Layer, error) {
		return Layer{Bytes: 7, Inodes: 2, At: time.Now()}, nil
	}})
	defer c.Close()
	cmd := startIn(t, path, "x=1; while :; do x=1; done")
	target := Target{ID: "live", Cgroup: path, Pid: cmd.Process.Pid, Layer: true}
	var s *Sample
	eventually(t, "CPU rate", func() error {
		if s = get(c, target); s == nil || s.CPU.NanoCores == nil || *s.CPU.NanoCores < 1e8 {
			return fmt.Errorf("sample %+v", s)
		}
		return nil
	})
	if *s.CPU.NanoCores > 1.2e9 {
		t.Errorf("one shell uses %d nanocores", *s.CPU.NanoCores)
	}
	if s.Processes.Count != 1 || s.Processes.Threads != 1 || s.Memory.Usage == 0 || s.Memory.WorkingSet > s.Memory.Usage {
		t.Errorf("%+v %+v", s.Processes, s.Memory)
	}
	if s.Layer == nil || s.Layer.Bytes != 7 || s.Open == nil || s.Open.Descriptors < 3 || s.Open.Limit == 0 {
		t.Errorf("layer %+v, open %+v", s.Layer, s.Open)
	}
}

// TestGone: a removed cgroup has no numbers, and keeping its files open does not keep it from being removed.
func TestGone(t *testing.T) {
	testenv.Require(t, testenv.Root)
	path := newCgroup(t, "gone")
	c := New(Options{Fresh: time.Nanosecond})
	defer c.Close()
	if s := get(c, Target{ID: "gone", Cgroup: path}); s == nil || !s.HasCgroup {
		t.Fatalf("%+v", s)
	}
	for _, d := range dirs(path) {
		if err := os.Remove(d); err != nil {
			t.Fatal(err)
		}
	}
	if s := get(c, Target{ID: "gone", Cgroup: path}); s != nil {
		t.Errorf("numbers of a removed cgroup: %+v", s)
	}
}

// TestNothingAtRest: when nobody asks any more, no file, socket or goroutine is left.
func TestNothingAtRest(t *testing.T) {
	testenv.Require(t, testenv.Root)
	path := newCgroup(t, "rest")
	c := New(Options{Interval: 10 * time.Millisecond, Linger: 50 * time.Millisecond})
	defer c.Close()
	before, routines := openCgroupFiles(t), runtime.NumGoroutine()
	if s := get(c, Target{ID: "rest", Cgroup: path}); s == nil {
		t.Fatal("no sample")
	}
	if n := openCgroupFiles(t); n <= before {
		t.Errorf("%d files open, %d before: they are not kept", n, before)
	}
	eventually(t, "rest", func() error {
		if n := openCgroupFiles(t); n != before || c.Targets() != 0 || runtime.NumGoroutine() > routines {
			return fmt.Errorf("%d files open, %d targets, %d goroutines (%d before)", n, c.Targets(), runtime.NumGoroutine(), routines)
		}
		return nil
	})
	// It starts again when somebody asks again, and measures by itself meanwhile.
	first := get(c, Target{ID: "rest", Cgroup: path})
	if first == nil {
		t.Fatal("no sample after a rest")
	}
	c.o.Fresh = time.Hour // the loop alone can refresh it now
	eventually(t, "background sample", func() error {
		if s := get(c, Target{ID: "rest", Cgroup: path}); s == nil || s == first {
			return fmt.Errorf("still %v", s)
		}
		return nil
	})
}

func openCgroupFiles(t testing.TB) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(slices.DeleteFunc(fds, func(d os.DirEntry) bool {
		p, _ := os.Readlink("/proc/self/fd/" + d.Name())
		return !strings.HasPrefix(p, cgroup.Root)
	}))
}

// TestInterfaces counts bytes inside a network namespace, and lets go of it.
func TestInterfaces(t *testing.T) {
	testenv.Require(t, testenv.Root)
	dir := filepath.Join(t.TempDir(), "ns")
	if err := namespace.Prepare(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	pins := filepath.Join(dir, "pod")
	paths, err := namespace.Create(pins, namespace.Spec{Net: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = namespace.Delete(pins) })
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("nsenter", append([]string{"--net=" + paths.Net, "ip"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v\n%s", args, err, out)
		}
	}
	ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
	ip("addr", "add", "10.9.0.1/24", "dev", "eth0")
	ip("link", "set", "eth0", "up")
	ip("link", "set", "eth1", "up")
	eventually(t, "link", func() error { // packets are dropped before
		out, err := exec.Command("nsenter", "--net="+paths.Net, "ip", "-o", "link", "show", "eth0").Output()
		if err == nil && !bytes.Contains(out, []byte("state UP")) {
			err = fmt.Errorf("%s", out)
		}
		return err
	})
	ip("neigh", "add", "10.9.0.2", "lladdr", "02:00:00:00:00:02", "dev", "eth0")

	c := New(Options{Fresh: time.Nanosecond})
	defer c.Close()
	tx := func() uint64 {
		s := get(c, Target{ID: "net", NetNS: paths.Net})
		if s == nil || len(s.Interfaces) != 2 {
			t.Fatalf("%+v", s)
		}
		for _, i := range s.Interfaces {
			if i.Name == "eth0" {
				return i.TxBytes
			}
		}
		t.Fatalf("%+v", s.Interfaces)
		return 0
	}
	before := tx()
	const packets, payload = 10, 1000
	var conn net.Conn
	err = namespace.Do(paths.Net, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "udp")
		defer f.Close()
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{10, 9, 0, 2}}); err != nil {
			return err
		}
		conn, err = net.FileConn(f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for range packets {
		if _, err := conn.Write(make([]byte, payload)); err != nil {
			t.Fatal(err)
		}
	}
	conn.Close()
	// 14 of Ethernet, 20 of IPv4, 8 of UDP. Neighbour discovery may add a little.
	if sent, want := tx()-before, uint64(packets*(payload+42)); sent < want || sent > want+2000 {
		t.Errorf("sent %d bytes, counted %d", want, sent)
	}
	if s := get(c, Target{ID: "none", NetNS: "/nonexistent"}); s != nil {
		t.Errorf("a namespace that is not there: %+v", s)
	}
	c.Forget("net")
	if n := c.Targets(); n != 1 {
		t.Errorf("%d targets", n)
	}
}

// BenchmarkGet is what 200 containers cost: all samples fresh, and all taken anew.
func BenchmarkGet(b *testing.B) {
	testenv.Require(b, testenv.Root)
	var targets []Target
	for i := range 200 {
		targets = append(targets, Target{ID: fmt.Sprint(i), Cgroup: newCgroup(b, fmt.Sprint(i))})
	}
	for name, o := range map[string]Options{"cached": {Fresh: time.Hour}, "measured": {Fresh: time.Nanosecond, Budget: time.Hour}} {
		b.Run(name, func(b *testing.B) {
			c := New(o)
			defer c.Close()
			c.Get(targets)
			for b.Loop() {
				c.Get(targets)
			}
		})
	}
}
