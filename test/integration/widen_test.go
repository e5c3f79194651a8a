// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/cgroup"
	"github.com/embedcri/embedcri/internal/testnode"
)

// run executes a command in a container and returns its output, or what went wrong.
func run(n *testnode.Node, id, cmd string) string {
	out, errOut, err := n.Runtime.ExecSync(n.Ctx(), id, []string{"sh", "-c", cmd}, 10*time.Second)
	if err != nil {
		return fmt.Sprintf("%v %s", err, errOut)
	}
	return strings.TrimSpace(string(out))
}

// TestTargetPIDNamespace is what an ephemeral container for debugging does.
func TestTargetPIDNamespace(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pc := n.HostPodConfig()
	pod := n.RunPod(pc)
	target := n.Run(pod, pc, n.ContainerConfig(ref, "sleep", "1234"))
	cfg := n.ContainerConfig(ref, "sleep", "1000")
	cfg.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_TARGET
	cfg.Linux.SecurityContext.NamespaceOptions.TargetId = target
	debug := n.Run(pod, pc, cfg)
	if ps := run(n, debug, "ps -o pid,args"); !strings.Contains(ps, "1 sleep 1234") {
		t.Errorf("the debugger sees %s", ps)
	}
	// The namespace goes with its pid 1, and the debugger with it.
	if err := n.Runtime.StopContainer(n.Ctx(), target, 0); err != nil {
		t.Error(err)
	}
	if s := n.WaitExited(debug); s.ExitCode != 137 {
		t.Errorf("debugger after its target: code %d", s.ExitCode)
	}
}

// TestImageVolume mounts an image, and a directory of an image, into a container.
func TestImageVolume(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref, other := registry.Ref(t, "busybox:1"), registry.Ref(t, "busybox:2")
	n.Pull(ref)
	n.Pull(other)
	pc := n.HostPodConfig()
	pod := n.RunPod(pc)
	volume := func(path, sub string) *runtimeapi.Mount {
		return &runtimeapi.Mount{ContainerPath: path, Image: &runtimeapi.ImageSpec{Image: other}, ImageSubPath: sub, Readonly: true}
	}
	cfg := n.ContainerConfig(ref, "sleep", "1000")
	cfg.Mounts = []*runtimeapi.Mount{volume("/all", ""), volume("/part", "etc")}
	ctr := n.Run(pod, pc, cfg)
	if got := run(n, ctr, "cat /all/etc/version /part/version"); got != "2\n2" {
		t.Errorf("in the volumes: %q", got)
	}
	if got := run(n, ctr, "touch /all/x"); !strings.Contains(got, "Read-only") {
		t.Errorf("write: %q", got)
	}
	// The files stay while they are mounted, even if the image is removed; and a restart changes nothing.
	if err := n.Images.RemoveImage(n.Ctx(), &runtimeapi.ImageSpec{Image: other}); err != nil {
		t.Error(err)
	}
	n.Kill()
	n.Start()
	if got := run(n, ctr, "cat /part/version"); got != "2" {
		t.Errorf("after the image is gone: %q", got)
	}
	n.Pull(other)
	for sub, text := range map[string]string{"../..": "leaves", "none": "no directory", "etc/version": "no directory"} {
		bad := n.ContainerConfig(ref, "true")
		bad.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
		bad.Mounts = []*runtimeapi.Mount{volume("/x", sub)}
		if _, err := n.Runtime.CreateContainer(n.Ctx(), pod, bad, pc); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("sub path %q: %v", sub, err)
		}
	}
}

// TestUpdateResources changes limits of a created and of a running container, and wants to read them in the cgroup and the status.
func TestUpdateResources(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pc := n.HostPodConfig()
	pod := n.RunPod(pc)
	cfg := n.ContainerConfig(ref, "sleep", "1000")
	cfg.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuShares: 512, MemoryLimitInBytes: 64 << 20}
	ctr := n.Create(pod, pc, cfg)
	update := func(r *runtimeapi.LinuxContainerResources) {
		t.Helper()
		if err := n.Runtime.UpdateContainerResources(n.Ctx(), ctr, &runtimeapi.ContainerResources{Linux: r}); err != nil {
			t.Fatal(err)
		}
	}
	check := func(memory, shares int64) {
		t.Helper()
		r := n.Status(ctr).Resources.GetLinux()
		if r.GetMemoryLimitInBytes() != memory || r.GetCpuShares() != shares {
			t.Errorf("status says %d bytes, %d shares; want %d, %d", r.GetMemoryLimitInBytes(), r.GetCpuShares(), memory, shares)
		}
		if cgroup.Unified() {
			return // shares are converted to a weight there
		}
		cg := n.Cgroup(ctr)
		for file, want := range map[string]int64{
			filepath.Join(cg.Dir("memory"), "memory.limit_in_bytes"): memory, filepath.Join(cg.Dir("cpu"), "cpu.shares"): shares,
		} {
			b, err := os.ReadFile(file)
			if err != nil || strings.TrimSpace(string(b)) != fmt.Sprint(want) {
				t.Errorf("%s: %q, %v; want %d", file, b, err, want)
			}
		}
	}
	check(64<<20, 512)
	update(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 96 << 20})
	check(96<<20, 512)
	if err := n.Runtime.StartContainer(n.Ctx(), ctr); err != nil {
		t.Fatal(err)
	}
	update(&runtimeapi.LinuxContainerResources{CpuShares: 1024})
	check(96<<20, 1024)
	n.Kill()
	n.Start()
	check(96<<20, 1024)
	if err := n.Runtime.StopContainer(n.Ctx(), ctr, 0); err != nil {
		t.Fatal(err)
	}
	if err := n.Runtime.UpdateContainerResources(n.Ctx(), ctr, &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{CpuShares: 2}}); err == nil {
		t.Error("a stopped container was updated")
	}
}
