// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testnode"
)

// TestExitCodesOfShortRuns starts containers that end at once, 8 at a time, half of them `true`, and wants every code right.
func TestExitCodesOfShortRuns(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	busybox, exit := registry.Ref(t, "busybox:1"), registry.Ref(t, "exit:1")
	n.Pull(busybox)
	n.Pull(exit)
	pc := n.HostPodConfig()
	pod := n.RunPod(pc)

	const runs, parallel = 200, 8
	jobs := make(chan int)
	var wg sync.WaitGroup
	var mu sync.Mutex
	wrong := 0
	for range parallel {
		wg.Go(func() {
			for i := range jobs {
				want := int32(0)
				cfg := n.ContainerConfig(busybox, "true")
				if i%2 == 1 {
					want = int32(i % 256)
					cfg = n.ContainerConfig(exit, "/exit", fmt.Sprint(want))
				}
				if err := shortRun(n, pod, pc, cfg, want); err != nil {
					mu.Lock()
					wrong++
					t.Errorf("run %d: %v", i, err)
					mu.Unlock()
				}
			}
		})
	}
	for i := range runs {
		jobs <- i
	}
	close(jobs)
	wg.Wait()
	t.Logf("%d of %d right", runs-wrong, runs)
}

// shortRun does not use the Fatal helpers of testnode, as it runs beside the test's goroutine.
func shortRun(n *testnode.Node, pod string, pc *runtimeapi.PodSandboxConfig, cfg *runtimeapi.ContainerConfig, want int32) error {
	cfg.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	ctx := n.Ctx()
	id, err := n.Runtime.CreateContainer(ctx, pod, cfg, pc)
	if err != nil {
		return err
	}
	if err := n.Runtime.StartContainer(ctx, id); err != nil {
		return err
	}
	for {
		r, err := n.Runtime.ContainerStatus(ctx, id, false)
		if err != nil {
			return err
		}
		if s := r.Status; s.State == runtimeapi.ContainerState_CONTAINER_EXITED {
			if s.ExitCode != want || s.FinishedAt < s.CreatedAt || s.StartedAt == 0 {
				return fmt.Errorf("exit code %d, want %d; created %d, started %d, finished %d, reason %s",
					s.ExitCode, want, s.CreatedAt, s.StartedAt, s.FinishedAt, s.Reason)
			}
			break
		}
		time.Sleep(time.Millisecond)
	}
	return n.Runtime.RemoveContainer(ctx, id)
}

// TestSignals wants 128+n, never -1 and never 0.
func TestSignals(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pc := n.HostPodConfig()
	pod := n.RunPod(pc)
	for _, sig := range []unix.Signal{unix.SIGKILL, unix.SIGTERM, unix.SIGSEGV, unix.SIGUSR1} {
		// pid 1 of a namespace ignores what it has no handler for, unless it comes from outside and is SIGKILL; so the shell that
		// dies is not pid 1, and its parent passes its status on in the shell's own way, which is 128+n as well.
		id := n.Run(pod, pc, n.ContainerConfig(ref, "sh", "-c", fmt.Sprintf("sh -c 'kill -%d $$'; exit $?", int(sig))))
		if s := n.WaitExited(id); s.ExitCode != 128+int32(sig) {
			t.Errorf("%v: exit code %d", sig, s.ExitCode)
		}
	}
	id := n.Run(pod, pc, n.ContainerConfig(ref, "sleep", "1000"))
	if err := n.Runtime.StopContainer(n.Ctx(), id, 0); err != nil {
		t.Fatal(err)
	}
	if s := n.WaitExited(id); s.ExitCode != 137 || s.Reason != "Error" {
		t.Errorf("killed: exit code %d, reason %q", s.ExitCode, s.Reason)
	}
}

// TestExitWhileDaemonIsDead is what this runtime is for.
func TestExitWhileDaemonIsDead(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pc := n.HostPodConfig()
	pod := n.RunPod(pc)
	ends := n.Run(pod, pc, n.ContainerConfig(ref, "sh", "-c", "echo first; while [ ! -e /go ]; do sleep 0.01; done; echo last words; exit 42"))
	stays := n.Run(pod, pc, n.ContainerConfig(ref, "sleep", "1000"))
	n.Eventually("first line", func() error {
		if l := n.ContainerLog(ends); len(l) != 1 {
			return fmt.Errorf("log %q", l)
		}
		return nil
	})
	// Told to end by a file, so that it ends for certain after the daemon has.
	v, err := n.Runtime.ContainerStatus(n.Ctx(), ends, true)
	if err != nil {
		t.Fatal(err)
	}
	pid := infoPid(t, v.Info)
	n.Kill()
	touched := time.Now()
	if err := touch(fmt.Sprintf("/proc/%d/root/go", pid)); err != nil {
		t.Fatal(err)
	}
	waitGone(t, pid)
	gone := time.Now()
	n.Start()

	s := n.Status(ends)
	if s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != 42 {
		t.Errorf("state %v, exit code %d, reason %q; want exited with 42", s.State, s.ExitCode, s.Reason)
	}
	if at := time.Unix(0, s.FinishedAt); at.Before(touched) || at.After(gone) {
		t.Errorf("finished at %v, want within %v and %v, when the daemon was dead", at, touched, gone)
	}
	if l := n.ContainerLog(ends); len(l) != 2 || !strings.HasSuffix(l[1], "last words") {
		t.Errorf("log %q, want the last words too", l)
	}
	if s := n.Status(stays); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the other container: %v", s.State)
	}
	out, _, err := n.Runtime.ExecSync(n.Ctx(), stays, []string{"echo", "alive"}, 10*time.Second)
	if err != nil || string(out) != "alive\n" {
		t.Errorf("exec after the restart: %q, %v", out, err)
	}
	if err := n.Runtime.StopContainer(n.Ctx(), stays, 0); err != nil {
		t.Error(err)
	}
	if s := n.Status(stays); s.ExitCode != 137 {
		t.Errorf("stopped after the restart: exit code %d", s.ExitCode)
	}
}
