// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/cgroup"
	"github.com/embedcri/embedcri/internal/testnode"
)

// podCgroup gives a pod a cgroup of its own, as the kubelet does, and returns what removes it again once the pod is gone.
func podCgroup(n *testnode.Node, pc *runtimeapi.PodSandboxConfig) (path string, remove func()) {
	pc.Linux.CgroupParent, remove = n.PodCgroup("pod" + pc.Metadata.Uid)
	return pc.Linux.CgroupParent, remove
}

func readNumber(t testing.TB, path string) uint64 {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	v, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// cpuTime reads what a cgroup has used of the processors, in nanoseconds.
func cpuTime(t testing.TB, path string) uint64 {
	t.Helper()
	if !cgroup.Unified() {
		return readNumber(t, filepath.Join("/sys/fs/cgroup/cpuacct", path, "cpuacct.usage"))
	}
	b, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", path, "cpu.stat"))
	if err != nil {
		t.Fatal(err)
	}
	us, err := strconv.ParseUint(strings.Fields(string(b))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return us * 1000
}

// memoryFiles reads what a cgroup uses, and its working set as the kubelet computes it: usage less inactive file pages.
func memoryFiles(t testing.TB, path string) (usage, workingSet uint64) {
	t.Helper()
	dir, file, key := filepath.Join("/sys/fs/cgroup/memory", path), "memory.usage_in_bytes", "total_inactive_file"
	if cgroup.Unified() {
		dir, file, key = filepath.Join("/sys/fs/cgroup", path), "memory.current", "inactive_file"
	}
	usage = readNumber(t, filepath.Join(dir, file))
	b, err := os.ReadFile(filepath.Join(dir, "memory.stat"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); f[0] == key {
			inactive, err := strconv.ParseUint(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return usage, usage - min(inactive, usage)
		}
	}
	t.Fatalf("no %s in memory.stat of %s", key, path)
	return 0, 0
}

func far(a, b uint64) uint64 { return max(a, b) - min(a, b) }

// TestStats runs a container that burns a fifth of a processor, holds memory, has written a file, and is sent bytes, and compares
// what the daemon tells with the cgroup's files and with what is known.
func TestStats(t *testing.T) {
	n := testnode.Start(t, testnode.Options{})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pc := n.PodConfig()
	parent, removeCgroup := podCgroup(n, pc)
	pod := n.RunPod(pc)
	const file, memory = 5 << 20, 24 << 20
	cfg := n.ContainerConfig(ref, "sh", "-c", fmt.Sprintf(`dd if=/dev/zero of=/file bs=1M count=%d 2>/dev/null
		dd if=/dev/zero of=/dev/shm/held bs=1M count=%d 2>/dev/null
		while :; do nc -l -p 8080 >/dev/null; done &
		until grep -q :1F90 /proc/net/tcp /proc/net/tcp6; do sleep 0.01; done
		echo ready; while :; do :; done`, file>>20, memory>>20))
	cfg.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 20000, MemoryLimitInBytes: 128 << 20}
	ctr := n.Run(pod, pc, cfg)
	n.Eventually("readiness", func() error {
		if l := n.ContainerLog(ctr); len(l) != 1 {
			return fmt.Errorf("log %q", l)
		}
		return nil
	})
	ctx := n.Ctx()
	get := func() *runtimeapi.ContainerStats {
		t.Helper()
		s, err := n.Runtime.ContainerStats(ctx, ctr)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	own := filepath.Join(parent, ctr)
	first := get()
	var s *runtimeapi.ContainerStats
	n.Eventually("a rate over a second", func() error {
		if s = get(); s.Cpu.UsageNanoCores == nil || s.Cpu.Timestamp-first.Cpu.Timestamp < int64(1200*time.Millisecond) {
			return fmt.Errorf("%v", s.Cpu)
		}
		return nil
	})
	// A quota is for a period: at most one more than fits.
	share := float64(s.Cpu.UsageCoreNanoSeconds.Value-first.Cpu.UsageCoreNanoSeconds.Value) / float64(s.Cpu.Timestamp-first.Cpu.Timestamp)
	t.Logf("CPU: %.3f of a processor, usage_nano_cores %d", share, s.Cpu.UsageNanoCores.Value)
	if share > 0.26 || share < 0.02 || s.Cpu.UsageNanoCores.Value > 300_000_000 || s.Cpu.UsageNanoCores.Value < 10_000_000 {
		t.Errorf("a quota of 0.2 processors, told %.3f and %d", share, s.Cpu.UsageNanoCores.Value)
	}
	n.Eventually("CPU time between two reads of the file", func() error {
		before := cpuTime(t, own)
		time.Sleep(260 * time.Millisecond) // older samples than that are not shown
		told := get().Cpu.UsageCoreNanoSeconds.Value
		if after := cpuTime(t, own); told < before || told > after {
			return fmt.Errorf("told %d, the file has %d before and %d after", told, before, after)
		}
		return nil
	})
	m := s.Memory
	if m.UsageBytes.Value < memory || m.UsageBytes.Value > memory+file+(8<<20) || m.WorkingSetBytes.Value > m.UsageBytes.Value ||
		m.AvailableBytes.Value != (128<<20)-m.WorkingSetBytes.Value || m.RssBytes.Value == 0 || m.PageFaults.Value == 0 {
		t.Errorf("memory with %d held: %v", memory, m)
	}
	n.Eventually("memory as in the files", func() error { // they are not read at the same time
		m := get().Memory
		usage, workingSet := memoryFiles(t, own)
		const near = 1 << 20
		if far(m.UsageBytes.Value, usage) > near || far(m.WorkingSetBytes.Value, workingSet) > near {
			return fmt.Errorf("told %d, working set %d; the files have %d and %d", m.UsageBytes.Value, m.WorkingSetBytes.Value, usage, workingSet)
		}
		return nil
	})
	if w := s.WritableLayer; w == nil || w.UsedBytes.Value < file || w.UsedBytes.Value > file+(64<<10) || w.InodesUsed.Value < 1 || w.FsId.GetMountpoint() == "" {
		t.Errorf("writable layer with a file of %d: %v", file, w)
	}
	if _, err := os.Stat("/proc/pressure"); err == nil && (s.Cpu.Psi == nil || s.Memory.Psi == nil || s.Io == nil) {
		t.Errorf("no PSI: %v", s)
	}

	podStats := func() *runtimeapi.LinuxPodSandboxStats {
		t.Helper()
		s, err := n.Runtime.PodSandboxStats(ctx, pod)
		if err != nil {
			t.Fatal(err)
		}
		return s.Linux
	}
	before := podStats()
	if i := before.Network.GetDefaultInterface(); i.GetName() != "eth0" {
		t.Fatalf("network %v", before.Network)
	}
	const sent = 1 << 20
	send(t, n, pod, sent)
	n.Eventually("bytes received", func() error {
		got := podStats().Network.DefaultInterface.RxBytes.Value - before.Network.DefaultInterface.RxBytes.Value
		if got < sent || got > sent*11/10 {
			return fmt.Errorf("sent %d, told %d", sent, got)
		}
		return nil
	})
	var after *runtimeapi.LinuxPodSandboxStats
	n.Eventually("processes", func() error { // the shell, its copy for the loop, and nc, which the loop has to start again
		if after = podStats(); after.Process.ProcessCount.Value != 3 {
			return fmt.Errorf("%v", after.Process)
		}
		return nil
	})
	if after.Cpu.UsageCoreNanoSeconds.Value < s.Cpu.UsageCoreNanoSeconds.Value || after.Memory.UsageBytes.Value < memory || len(after.Containers) != 1 {
		t.Errorf("pod: %v", after)
	}
	metricsAgree(t, n, pod, ctr, own)

	// After the pod there is nothing to tell, and nothing keeps its namespace.
	if err := n.Runtime.StopPodSandbox(ctx, pod); err != nil {
		t.Fatal(err)
	}
	if l, err := n.Runtime.ListContainerStats(ctx, nil); err != nil || len(l) != 0 {
		t.Errorf("%v, %v", l, err)
	}
	if err := n.Runtime.RemovePodSandbox(ctx, pod); err != nil {
		t.Fatal(err)
	}
	removeCgroup()
}

// send sends bytes to port 8080 of a pod.
func send(t testing.TB, n *testnode.Node, pod string, bytes int) {
	t.Helper()
	st, err := n.Runtime.PodSandboxStatus(n.Ctx(), pod, false)
	if err != nil {
		t.Fatal(err)
	}
	var conn net.Conn
	n.Eventually("connection", func() (err error) {
		conn, err = net.DialTimeout("tcp", net.JoinHostPort(st.Status.Network.Ip, "8080"), time.Second)
		return err
	})
	defer conn.Close()
	if _, err := conn.Write(make([]byte, bytes)); err != nil {
		t.Fatal(err)
	}
}

// metricsAgree checks that each metric has a descriptor with as many labels, and some values.
func metricsAgree(t *testing.T, n *testnode.Node, pod, ctr, path string) {
	t.Helper()
	ds, err := n.Runtime.ListMetricDescriptors(n.Ctx())
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string][]string{}
	for _, d := range ds {
		keys[d.Name] = d.LabelKeys
	}
	ps, err := n.Runtime.ListPodSandboxMetrics(n.Ctx())
	if err != nil || len(ps) != 1 || ps[0].PodSandboxId != pod || len(ps[0].ContainerMetrics) != 1 || ps[0].ContainerMetrics[0].ContainerId != ctr {
		t.Fatalf("%v, %v", ps, err)
	}
	told := map[string]uint64{}
	for _, m := range slices.Concat(ps[0].Metrics, ps[0].ContainerMetrics[0].Metrics) {
		if len(keys[m.Name]) == 0 || len(keys[m.Name]) != len(m.LabelValues) {
			t.Errorf("%v has keys %q", m, keys[m.Name])
			continue
		}
		if id := m.LabelValues[slices.Index(keys[m.Name], "id")]; id != path && id != filepath.Dir(path) {
			t.Errorf("%s of cgroup %q", m.Name, id)
		}
		told[m.Name] = m.Value.Value
	}
	var missing []string
	for name := range keys {
		if _, ok := told[name]; !ok {
			missing = append(missing, name)
		}
	}
	slices.Sort(missing)
	t.Logf("%d of %d metrics told; not on this machine: %q", len(told), len(keys), missing)
	for _, name := range missing {
		if !strings.HasPrefix(name, "container_fs_") && !strings.HasPrefix(name, "container_blkio_") { // no block device counts here
			t.Errorf("%s is not told", name)
		}
	}
	if told["container_memory_working_set_bytes"] == 0 || told["container_processes"] != 3 || told["container_spec_cpu_quota"] != 20000 ||
		told["container_network_receive_bytes_total"] < 1<<20 || told["container_sockets"] == 0 || told["container_file_descriptors"] < 6 {
		t.Errorf("%v", told)
	}
}
