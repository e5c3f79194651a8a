// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/boot"
	fp "github.com/embedcri/embedcri/internal/failpoint"
	"github.com/embedcri/embedcri/internal/testnode"
)

const waits = "trap 'exit 7' TERM; echo ready; sleep 1000 & wait"

// recordDir is where a node keeps the record of a pod or container.
func recordDir(n *testnode.Node, kind, id string) string {
	return filepath.Join(n.Dir, "root", "state", kind, id)
}

// TestOrphans takes away the records of a pod and its container while there is no daemon. The next one has to find all that they had
// and remove it, and to leave alone what is somebody's, or not provably its own.
func TestOrphans(t *testing.T) {
	n := testnode.Start(t, testnode.Options{})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pc := n.PodConfig()
	pod := n.RunPod(pc)
	kept := n.Run(pod, pc, n.ContainerConfig(ref, "sh", "-c", waits))
	was := n.Quiet()

	orphanPC := n.PodConfig()
	orphanPod := n.RunPod(orphanPC)
	cfg := n.ContainerConfig(ref, "sh", "-c", waits)
	cfg.Mounts = append(cfg.Mounts, &runtimeapi.Mount{ContainerPath: "/volume", Image: &runtimeapi.ImageSpec{Image: ref}, Readonly: true})
	orphan := n.Run(orphanPod, orphanPC, cfg)
	n.Kill()
	for kind, id := range map[string]string{"pods": orphanPod, "containers": orphan} {
		if err := os.RemoveAll(recordDir(n, kind, id)); err != nil {
			t.Fatal(err)
		}
	}
	foreign := filepath.Join(n.State, "task", "not-an-id")
	if err := os.Mkdir(foreign, 0o755); err != nil {
		t.Fatal(err)
	}
	n.Start()
	n.Eventually("foreign directory is left alone", func() error { _, err := os.Stat(foreign); return err })
	if err := n.Settled(append(was, "bundle "+foreign), sortedCopy, 20*time.Second); err != nil {
		t.Errorf("orphans: %v", err)
	}
	if err := os.Remove(foreign); err != nil {
		t.Error(err)
	}
	if s := n.Status(kept); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("a container that is on record: %v", s)
	}
	if _, _, err := n.Runtime.ExecSync(n.Ctx(), kept, []string{"true"}, time.Minute); err != nil {
		t.Error(err)
	}
}

// TestStartCutOffTwice: the daemon dies when the program runs and before that is recorded, and the next one when it has recorded the
// program's exit and before it has recorded the start. The client's repeated StartContainer is none the wiser.
func TestStartCutOffTwice(t *testing.T) {
	a := newActor(t)
	cfg := a.config("sh", "-c", waits) // not over before the first daemon is
	id := a.create(cfg)
	start := func() error {
		_, err := a.c.StartContainer(a.n.Ctx(), &runtimeapi.StartContainerRequest{ContainerId: id})
		return err
	}
	pid := a.n.ContainerPid(id)
	a.arm(fp.TaskRunning, "before", fp.Kill)
	if err := start(); err == nil {
		t.Fatal("the daemon did not die")
	}
	a.awaitDeath()
	a.eventually("the program is over", func() error {
		if err := unix.Kill(pid, unix.SIGTERM); err == nil { // again until it listens
			return fmt.Errorf("process %d lives", pid)
		}
		return nil
	})
	a.arm(fp.ExitRecord, "after", fp.Kill)
	a.n.Spawn()
	a.awaitDeath()
	if !a.wasHit() {
		t.Fatalf("the second daemon has not recorded the exit:\n%s", a.n.Log())
	}
	if !a.alive() {
		t.Fatal("the second daemon did not die")
	}
	if err := start(); err != nil {
		t.Errorf("StartContainer, repeated: %v", err)
	}
	if s := a.status(id); s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != 7 || s.StartedAt == 0 || s.StartedAt > s.FinishedAt {
		t.Errorf("status: %v", s)
	}
	if err := start(); err == nil {
		t.Error("a third StartContainer is not refused")
	}
	a.remove(id)
}

// TestReboot makes a machine look rebooted: nothing lives, everything in /run and the kernel is gone, and the boot id is another.
func TestReboot(t *testing.T) {
	n := testnode.Start(t, testnode.Options{})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pc := n.PodConfig()
	pod := n.RunPod(pc)
	running := n.Run(pod, pc, n.ContainerConfig(ref, "sh", "-c", waits))
	exited := n.Run(pod, pc, n.ContainerConfig(ref, "sh", "-c", "exit 5"))
	created := n.Create(pod, pc, n.ContainerConfig(ref, "sh", "-c", waits))
	n.WaitExited(exited)
	n.Kill()
	n.PowerCycle()
	// What bears the pid of a container by now is a stranger.
	stranger := exec.Command("sleep", "1000")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stranger.Process.Kill(); _ = stranger.Wait() }()
	status := filepath.Join(recordDir(n, "containers", running), "status.json")
	b, err := os.ReadFile(status)
	if err != nil {
		t.Fatal(err)
	}
	b = regexp.MustCompile(`"pid":\d+`).ReplaceAll(b, fmt.Appendf(nil, `"pid":%d`, stranger.Process.Pid))
	if err := os.WriteFile(status, b, 0o600); err != nil {
		t.Fatal(err)
	}
	n.Setenv(boot.Env + "=another-boot")
	n.Start()

	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		t.Fatal(err)
	}
	booted := time.Now().Add(-time.Duration(ts.Nano()))
	for _, id := range []string{running, created} {
		s := n.Status(id)
		if s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != 255 || s.Reason != "Unknown" {
			t.Errorf("container of the last boot: %v", s)
		}
		if off := time.Unix(0, s.FinishedAt).Sub(booted); off.Abs() > 5*time.Second {
			t.Errorf("container of the last boot has ended %v after the boot", off)
		}
	}
	if s := n.Status(exited); s.ExitCode != 5 || s.State != runtimeapi.ContainerState_CONTAINER_EXITED {
		t.Errorf("container that had exited: %v", s)
	}
	ps, err := n.Runtime.PodSandboxStatus(n.Ctx(), pod, false)
	if err != nil || ps.Status.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("pod of the last boot: %v, %v", ps, err)
	}
	n.Eventually("its addresses are free again", func() error {
		for _, s := range n.World() {
			if strings.HasPrefix(s, "address ") || strings.HasPrefix(s, "CNI cache ") {
				return fmt.Errorf("%s", s)
			}
		}
		return nil
	})
	for _, id := range []string{running, exited, created} {
		if err := n.Runtime.StopContainer(n.Ctx(), id, 0); err != nil {
			t.Error(err)
		}
		if err := n.Runtime.RemoveContainer(n.Ctx(), id); err != nil {
			t.Error(err)
		}
	}
	if err := stranger.Process.Signal(unix.Signal(0)); err != nil {
		t.Errorf("a process with the pid of a container of the last boot: %v", err)
	}
	// The same machine goes on.
	pc2 := n.PodConfig()
	pod2 := n.RunPod(pc2)
	if s := n.WaitExited(n.Run(pod2, pc2, n.ContainerConfig(ref, "sh", "-c", "exit 3"))); s.ExitCode != 3 {
		t.Errorf("a new container: %v", s)
	}
}

// TestDamagedRecords damages one record at a time: that pod or container is unknown, it can be stopped and removed, the damaged file
// is kept, and nobody else is disturbed.
func TestDamagedRecords(t *testing.T) {
	n := testnode.Start(t, testnode.Options{})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	otherPC := n.PodConfig()
	otherPod := n.RunPod(otherPC)
	other := n.Run(otherPod, otherPC, n.ContainerConfig(ref, "sh", "-c", waits))
	was := n.Quiet()
	for _, damage := range []struct{ name, content string }{{"empty", ""}, {"torn", `{"embedcri":1,"data":{"id":"`}, {"foreign", `{"kind":"List"}`}} {
		for _, record := range []string{"pods/meta", "pods/state", "containers/meta", "containers/status"} {
			t.Run(record+"/"+damage.name, func(t *testing.T) {
				pc := n.PodConfig()
				pod := n.RunPod(pc)
				ctr := n.Run(pod, pc, n.ContainerConfig(ref, "sh", "-c", waits))
				n.Kill()
				kind, name, _ := strings.Cut(record, "/")
				id := map[string]string{"pods": pod, "containers": ctr}[kind]
				if err := os.WriteFile(filepath.Join(recordDir(n, kind, id), name+".json"), []byte(damage.content), 0o600); err != nil {
					t.Fatal(err)
				}
				n.Start()
				if kind == "containers" {
					if s := n.Status(ctr); s.State != runtimeapi.ContainerState_CONTAINER_UNKNOWN {
						t.Errorf("container with a damaged record: %v", s)
					}
				} else {
					ps, err := n.Runtime.PodSandboxStatus(n.Ctx(), pod, false)
					if err != nil || ps.Status.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
						t.Errorf("pod with a damaged record: %v, %v", ps, err)
					}
				}
				if s := n.Status(other); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
					t.Errorf("another container: %v", s)
				}
				evidence := filepath.Join(n.Dir, "root", "state", "damaged", fmt.Sprintf("%s-%s-%s.json", kind, id, name))
				if b, err := os.ReadFile(evidence); err != nil || string(b) != damage.content {
					t.Errorf("evidence: %q, %v", b, err)
				}
				if err := n.Runtime.StopContainer(n.Ctx(), ctr, 1); err != nil {
					t.Errorf("stop: %v", err)
				}
				if s := n.Status(ctr); s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode == 0 {
					t.Errorf("stopped container: %v", s)
				}
				if err := n.Runtime.RemoveContainer(n.Ctx(), ctr); err != nil {
					t.Errorf("remove: %v", err)
				}
				if err := n.Runtime.StopPodSandbox(n.Ctx(), pod); err != nil {
					t.Errorf("stop pod: %v", err)
				}
				if err := n.Runtime.RemovePodSandbox(n.Ctx(), pod); err != nil {
					t.Errorf("remove pod: %v", err)
				}
				if err := os.Remove(evidence); err != nil {
					t.Error(err)
				}
				if err := n.Settled(was, nil, 20*time.Second); err != nil {
					t.Errorf("left behind: %v", err)
				}
			})
		}
	}
}

// TestNewerState starts a daemon on the records of a newer one: it says so and touches nothing.
func TestNewerState(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	n.Term()
	version := filepath.Join(n.Dir, "root", "state", "version")
	if err := os.WriteFile(version, []byte("99\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := n.Command("run").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "holds format 99, this build knows up to 1") {
		t.Errorf("a daemon on newer records: %v\n%s", err, out)
	}
	if err := os.WriteFile(version, []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.Start()
}
