// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/cgroup"
	"github.com/embedcri/embedcri/internal/testnode"
)

// eat takes more memory than there is, as one process: tail keeps what it has read until there is an end of a line, and zeros
// have none.
const (
	eat      = "tail /dev/zero"
	oomLimit = 24 << 20
)

// limited is a container of which all processes together may use oomLimit.
func limited(n *testnode.Node, image, script string) *runtimeapi.ContainerConfig {
	cfg := n.ContainerConfig(image, "sh", "-c", script)
	cfg.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: oomLimit, MemorySwapLimitInBytes: oomLimit}
	return cfg
}

const oomMessage = "killed by SIGKILL from the kernel, out of memory, at " + stamp

// TestOutOfMemory is about who the victim was: the container is OOMKilled if its init was, and only then.
func TestOutOfMemory(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pc := n.HostPodConfig()
	pod := n.RunPod(pc)
	wantKills := func(t *testing.T, id, want string) {
		t.Helper()
		if got := string(verbose(t, n, id)["oomKills"]); got != want {
			t.Errorf("%s OOM kills, want %s", got, want)
		}
	}

	t.Run("init", func(t *testing.T) {
		id := n.Run(pod, pc, limited(n, ref, "exec "+eat))
		wantMessage(t, n.WaitExited(id), 137, "OOMKilled", oomMessage)
		wantKills(t, id, "1")
		if lines := logLines(t, n, "container was killed", id); len(lines) != 1 || !strings.Contains(lines[0], "oom=true") {
			t.Errorf("log: %q", lines)
		}
	})
	t.Run("a child, init lives", func(t *testing.T) {
		id := n.Run(pod, pc, limited(n, ref, eat+"; echo $?; "+eat+"; echo $?; sleep 1000"))
		n.Eventually("both are killed", func() error {
			if log := n.ContainerLog(id); strings.Count(strings.Join(log, "\n"), "137") != 2 {
				return fmt.Errorf("log %q", log)
			}
			return nil
		})
		if s := n.Status(id); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING || s.Reason != "" || s.Message != "" {
			t.Errorf("state %v, reason %q, message %q", s.State, s.Reason, s.Message)
		}
		wantKills(t, id, "2")
		n.Kill()
		n.Start()
		wantKills(t, id, "2")
		if err := n.Runtime.StopContainer(n.Ctx(), id, 0); err != nil {
			t.Fatal(err)
		}
		wantMessage(t, n.Status(id), 137, "Error", "killed by embedcri on request, without a grace period")
		wantKills(t, id, "2")
	})
	t.Run("a child, and init says so", func(t *testing.T) {
		id := n.Run(pod, pc, limited(n, ref, eat+"; exit $?"))
		wantMessage(t, n.WaitExited(id), 137, "Error", "exited by itself; out of memory, the kernel had killed 1 process in the container")
		wantKills(t, id, "1")
	})
	t.Run("while the daemon is dead", func(t *testing.T) {
		init := n.Run(pod, pc, limited(n, ref, untilGo("exec " + eat)[2]))
		child := n.Run(pod, pc, limited(n, ref, untilGo(eat + "; exit 3")[2]))
		initPid, childPid := statusPid(t, n, init), statusPid(t, n, child)
		n.Kill()
		for _, pid := range []int{initPid, childPid} {
			if err := touch(fmt.Sprintf("/proc/%d/root/go", pid)); err != nil {
				t.Fatal(err)
			}
			waitGone(t, pid)
		}
		n.Start()
		wantMessage(t, n.WaitExited(init), 137, "OOMKilled", oomMessage)
		wantKills(t, init, "1")
		wantMessage(t, n.WaitExited(child), 3, "Error", "exited by itself; out of memory, the kernel had killed 1 process in the container")
		wantKills(t, child, "1")
	})
	t.Run("within a stop", func(t *testing.T) {
		id := n.Run(pod, pc, limited(n, ref, "trap 'exec "+eat+"' TERM; echo ready; while :; do sleep 0.02; done"))
		waitLog(t, n, id, "ready")
		if err := n.Runtime.StopContainer(n.Ctx(), id, 30); err != nil {
			t.Fatal(err)
		}
		wantMessage(t, n.Status(id), 137, "OOMKilled", oomMessage)
	})
	t.Run("the whole group", func(t *testing.T) {
		const controllers = cgroup.Root + "/cgroup.controllers"
		if b, err := os.ReadFile(controllers); err != nil || !strings.Contains(string(b), "memory") {
			t.Skipf("no memory controller of cgroup v2, which alone has memory.oom.group: %v", err)
		}
		cfg := limited(n, ref, "sleep 1000 & "+eat+"; sleep 1000")
		cfg.Linux.Resources.Unified = map[string]string{"memory.oom.group": "1"}
		id := n.Run(pod, pc, cfg)
		wantMessage(t, n.WaitExited(id), 137, "OOMKilled", oomMessage)
	})
	t.Run("SIGKILL from a process", func(t *testing.T) {
		id := n.Run(pod, pc, limited(n, ref, "exec sleep 1000"))
		pid := killFrom(t, statusPid(t, n, id), unix.SIGKILL)
		wantKiller(t, n.WaitExited(id), unix.SIGKILL, pid)
		wantKills(t, id, "0")
	})
	wantAgreement(t, n)
}
