// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testenv"
	"github.com/embedcri/embedcri/internal/testnode"
)

// TestSystemdDriver lives a container's life with systemd as the keeper of cgroups: it is in a scope of the name and slice that the
// kubelet and cAdvisor look for, systemd knows its limits, and nothing is left of the unit.
func TestSystemdDriver(t *testing.T) {
	if testenv.CgroupDriver() != "systemd" {
		t.Skip("the cgroup driver to test with is not systemd's (make test-vm)")
	}
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	rc, err := n.Runtime.RuntimeConfig(n.Ctx())
	if err != nil || rc.Linux.CgroupDriver != runtimeapi.CgroupDriver_SYSTEMD {
		t.Errorf("runtime config: %v, %v", rc, err)
	}
	bad := n.HostPodConfig()
	bad.Linux.CgroupParent = "/kubepods/pod1"
	_, err = n.Runtime.RunPodSandbox(n.Ctx(), bad, "")
	want(t, err, codes.InvalidArgument, "linux.cgroup_parent")

	pc := n.HostPodConfig()
	path, remove := n.PodCgroup("pod1")
	pc.Linux.CgroupParent = path
	slice := filepath.Base(path)
	pc.Linux.SecurityContext.NamespaceOptions.Pid = modePod
	pod := n.RunPod(pc)
	cfg := n.ContainerConfig(ref, "sleep", "1000")
	cfg.Linux.SecurityContext.NamespaceOptions.Pid = modePod
	cfg.Linux.Resources = &runtimeapi.LinuxContainerResources{
		CpuShares: 512, CpuQuota: 50000, CpuPeriod: 100000, MemoryLimitInBytes: 64 << 20, Unified: map[string]string{"pids.max": "99"},
	}
	ctr := n.Run(pod, pc, cfg)
	dir := filepath.Join("/sys/fs/cgroup", pc.Linux.CgroupParent, "cri-embedcri-"+ctr+".scope")
	unit := filepath.Base(dir)
	check := func(when, memory string) {
		t.Helper()
		for file, want := range map[string]string{"memory.max": memory, "cpu.max": "50000 100000", "pids.max": "99"} {
			if b, err := os.ReadFile(filepath.Join(dir, file)); err != nil || strings.TrimSpace(string(b)) != want {
				t.Errorf("%s: %s is %q, %v; want %s", when, file, b, err, want)
			}
		}
		if got, want := show(t, unit, "ActiveState", "Slice", "MemoryMax"), "active "+slice+" "+memory; got != want {
			t.Errorf("%s: systemd says %q, want %q", when, got, want)
		}
	}
	check("running", "67108864")
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pidOf(t, n, ctr))); err != nil || !strings.HasSuffix(strings.TrimSpace(string(b)), "/"+unit) {
		t.Errorf("the container's process is in %s, %v", b, err)
	}
	if out, err := exec.Command("systemctl", "daemon-reload").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	check("after daemon-reload", "67108864")
	update := &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 128 << 20}}
	if err := n.Runtime.UpdateContainerResources(n.Ctx(), ctr, update); err != nil {
		t.Fatal(err)
	}
	check("after an update", "134217728")
	if got := run(n, ctr, "echo in the scope"); got != "in the scope" {
		t.Errorf("exec: %q", got)
	}
	if ps := run(n, ctr, "ps -o args"); !strings.Contains(ps, "pod-init") {
		t.Errorf("the pod's init is not to be seen: %s", ps)
	}
	n.Kill()
	n.Start()
	check("after a restart", "134217728")
	if got := run(n, ctr, "echo still there"); got != "still there" {
		t.Errorf("exec after a restart: %q", got)
	}
	if stats, err := n.Runtime.ContainerStats(n.Ctx(), ctr); err != nil || stats.Memory.GetUsageBytes().GetValue() == 0 {
		t.Errorf("stats: %v, %v", stats, err)
	}
	if err := n.Runtime.StopContainer(n.Ctx(), ctr, 0); err != nil {
		t.Error(err)
	}
	if s := n.Status(ctr); s.ExitCode != 137 {
		t.Errorf("stopped: %v", s)
	}

	// Over its limit, in the scope: the kernel's OOM killer, not systemd, decides, and we hear of it.
	hungry := n.ContainerConfig(ref, "sh", "-c", "x=a; while :; do x=$x$x; done")
	hungry.Linux.SecurityContext.NamespaceOptions.Pid = modePod
	hungry.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 16 << 20, MemorySwapLimitInBytes: 16 << 20}
	if s := n.WaitExited(n.Run(pod, pc, hungry)); s.ExitCode != 137 || s.Reason != "OOMKilled" {
		t.Errorf("out of memory: code %d, reason %s", s.ExitCode, s.Reason)
	}
	if err := n.Runtime.RemovePodSandbox(n.Ctx(), pod); err != nil {
		t.Fatal(err)
	}
	remove() // which is the kubelet's to do
	n.Eventually("no unit is left", func() error {
		out, err := exec.Command("systemctl", "list-units", "--all", "--plain", "--no-legend", "cri-embedcri-*", slice).CombinedOutput()
		if err != nil || len(strings.TrimSpace(string(out))) > 0 {
			return fmt.Errorf("%s %v", out, err)
		}
		return nil
	})

	// Without a parent of its own a pod is in the node's slice.
	pc = n.HostPodConfig()
	ctr = n.Run(n.RunPod(pc), pc, n.ContainerConfig(ref, "sleep", "1000"))
	if got := show(t, "cri-embedcri-"+ctr+".scope", "Slice"); got != filepath.Base(n.Parent) {
		t.Errorf("slice of a pod without parent: %s, want %s", got, filepath.Base(n.Parent))
	}
}

// show returns properties of a systemd unit, separated by blanks.
func show(t *testing.T, unit string, properties ...string) string {
	t.Helper()
	var values []string
	for _, p := range properties { // one by one: systemctl has an order of its own
		out, err := exec.Command("systemctl", "show", "--value", "-p", p, unit).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		values = append(values, strings.TrimSpace(string(out)))
	}
	return strings.Join(values, " ")
}
