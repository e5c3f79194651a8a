// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testenv"
	"github.com/embedcri/embedcri/internal/testnode"
)

// TestRuntimeCalls counts the runs of the OCI runtime in a pod's life: one, to create. Where starting and deleting are more than
// opening a FIFO and removing directories, the runtime does them.
func TestRuntimeCalls(t *testing.T) {
	dir := t.TempDir()
	log, wrapper := filepath.Join(dir, "calls"), filepath.Join(dir, "runc")
	script := fmt.Sprintf("#!/bin/sh\necho \"$*\" >> %s\nexec %s \"$@\"\n", log, testenv.RuncPath(t))
	if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	n := testnode.Start(t, testnode.Options{NoNetwork: true, Config: fmt.Sprintf("[runtime.handlers.counted]\npath = %q\n", wrapper)})
	n.Pull(registry.Ref(t, "busybox:1"))
	calls := func() (verbs []string) {
		b, _ := os.ReadFile(log)
		for line := range strings.Lines(string(b)) {
			for word := range strings.FieldsSeq(line) {
				switch word {
				case "create", "start", "delete", "kill":
					verbs = append(verbs, word)
				}
			}
		}
		if err := os.Remove(log); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return verbs
	}
	run := func(pc *runtimeapi.PodSandboxConfig) (pod, ctr string) {
		t.Helper()
		pod, err := n.Runtime.RunPodSandbox(n.Ctx(), pc, "counted")
		if err != nil {
			t.Fatal(err)
		}
		c := n.ContainerConfig(registry.Ref(t, "busybox:1"), "sh", "-c", "exit 7")
		c.Linux.SecurityContext.NamespaceOptions.Pid = pc.Linux.SecurityContext.NamespaceOptions.Pid
		return pod, n.Create(pod, pc, c)
	}
	remove := func(pod string) {
		t.Helper()
		if err := n.Runtime.RemovePodSandbox(n.Ctx(), pod); err != nil {
			t.Fatal(err)
		}
	}
	start := func(ctr string) {
		t.Helper()
		if err := n.Runtime.StartContainer(n.Ctx(), ctr); err != nil {
			t.Fatal(err)
		}
		if s := n.WaitExited(ctr); s.ExitCode != 7 {
			t.Errorf("exit code %d", s.ExitCode)
		}
	}
	calls() // of the daemon's start

	pod, ctr := run(n.HostPodConfig())
	start(ctr)
	remove(pod)
	if got := strings.Join(calls(), " "); got != "create" {
		t.Errorf("a plain container: the runtime was run for %q, want only create", got)
	}

	shared := n.HostPodConfig()
	shared.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_NODE
	pod, ctr = run(shared)
	start(ctr)
	remove(pod)
	if got := strings.Join(calls(), " "); got != "create delete" {
		t.Errorf("a container in the node's pid namespace: the runtime was run for %q, want create and delete", got)
	}

	// Init dies while it is parked: the start fails, and says so.
	pod, ctr = run(n.HostPodConfig())
	s, err := n.Runtime.ContainerStatus(n.Ctx(), ctr, true)
	if err != nil {
		t.Fatal(err)
	}
	pid := infoPid(t, s.Info)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitGone(t, pid)
	if err := n.Runtime.StartContainer(n.Ctx(), ctr); err == nil {
		t.Error("a container without a process was started")
	}
	if s := n.WaitExited(ctr); s.ExitCode == 0 {
		t.Errorf("its status: %v", s)
	}
	remove(pod)
}
