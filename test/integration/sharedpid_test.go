// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testnode"
)

// TestSharedPIDNamespace: containers of one pod see and signal each other's processes, and somebody reaps the orphans of all.
func TestSharedPIDNamespace(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pc := n.HostPodConfig()
	pc.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	pod := n.RunPod(pc)
	if ps := procsIn(t, n); len(ps) != 1 || !strings.Contains(ps[0], "pod-init") {
		t.Fatalf("processes of the pod: %v, want its init alone", ps)
	}
	shared := func(command ...string) string {
		c := n.ContainerConfig(ref, command...)
		c.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
		return n.Run(pod, pc, c)
	}
	victim := shared("sleep", "1000")
	// An orphan whose parent leaves at once falls to the pod's init.
	other := shared("sh", "-c", "(sleep 0.05 & exit); exec sleep 1000")
	exec := func(cmd string) string {
		out, _, err := n.Runtime.ExecSync(n.Ctx(), other, []string{"sh", "-c", cmd}, 10*time.Second)
		if err != nil {
			t.Fatalf("%s: %v", cmd, err)
		}
		return string(out)
	}
	if ps := exec("ps -o pid,args"); strings.Count(ps, "sleep 1000") != 2 || !strings.Contains(ps, "pod-init") {
		t.Errorf("ps in the other container: %s", ps)
	}
	n.Eventually("no zombie is left", func() error {
		if ps := exec("ps -o stat,args | grep '^Z' || true"); strings.TrimSpace(ps) != "" {
			return fmt.Errorf("zombies: %s", ps)
		}
		return nil
	})
	exec("kill -9 $(ps -o pid,args | awk '/sleep 1000/ && !/awk/ { print $1; exit }')")
	if s := n.WaitExited(victim); s.ExitCode != 137 {
		t.Errorf("killed from the other container: exit code %d", s.ExitCode)
	}
	if s := n.Status(other); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the other container: %v", s.State)
	}
	// A restart of the daemon changes nothing for the pod's init.
	n.Kill()
	n.Start()
	shared("true")
}
