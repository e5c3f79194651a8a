// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testnode"
)

// TestManyEndingsWhileDaemonIsDead lets 100 containers end, each in its own way, while there is no daemon. The next one has to tell
// how each ended and when: not when it was itself started.
func TestManyEndingsWhileDaemonIsDead(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pods := newEndingPods(n)
	ctx := n.Ctx()
	type started struct {
		ending
		id  string
		pid int
		death
	}
	var mu sync.Mutex
	var all []*started
	const runs = 100
	sideBySide(endings(runs), func(e ending) {
		id, pid, err := e.start(ctx, n, pods, ref)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			t.Error(err)
			return
		}
		all = append(all, &started{ending: e, id: id, pid: pid})
	})
	if t.Failed() {
		t.FailNow()
	}
	n.Kill()
	sideBySide(all, func(s *started) {
		var err error
		if s.death, err = s.end(s.pid); err != nil {
			t.Error(err)
		}
	})
	restarted := time.Now()
	n.Start()
	took := time.Since(restarted)
	right := 0
	var worst time.Duration
	for _, s := range all {
		got := n.Status(s.id)
		if got.State != runtimeapi.ContainerState_CONTAINER_EXITED {
			t.Errorf("%v is %v", s.command, got.State)
		} else if err := s.check(got, s.death, dateTolerance); err != nil {
			t.Error(err)
		} else {
			right++
			worst = max(worst, s.off(time.Unix(0, got.FinishedAt)))
		}
	}
	t.Logf("%d of %d right, none dated more than %v off; the daemon served %v after its start", right, runs, worst, took.Round(time.Millisecond))
	wantAgreement(t, n)
	n.Eventually("records are forgotten once they are stored", func() error {
		if s := tracerStats(t, n); s.Slots != 0 {
			return fmt.Errorf("%d slots taken", s.Slots)
		}
		return nil
	})
}

// TestStopGoesOnAfterRestart kills the daemon within a grace period. The next one sends no second SIGTERM, which many programs
// take for "hurry", and SIGKILL when the period that the first one has promised is over.
func TestStopGoesOnAfterRestart(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pc := n.HostPodConfig()
	pod := n.RunPod(pc)
	id := n.Run(pod, pc, n.ContainerConfig(ref, "sh", "-c", "trap 'echo term' TERM; echo ready; while :; do sleep 0.05; done"))
	waitLog(t, n, id, "ready")
	began := time.Now()
	go func() { _ = n.Runtime.StopContainer(n.Ctx(), id, 3) }() // the daemon dies under it
	waitLog(t, n, id, "term")
	waitSent(t, n, id)
	n.Kill()
	n.Start()
	if s := n.Status(id); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Fatalf("after the restart: %v %s", s.State, s.Message)
	}
	s := n.WaitExited(id)
	if took := time.Since(began); took < 3*time.Second || took > 8*time.Second {
		t.Errorf("was killed after %v, want 3 s", took)
	}
	if want := "stopped by embedcri on StopContainer, grace period of 3 s over"; s.ExitCode != 137 || s.Message != want {
		t.Errorf("exit code %d, message %q, want %q", s.ExitCode, s.Message, want)
	}
	if log := strings.Join(n.ContainerLog(id), "\n"); strings.Count(log, "term") != 1 {
		t.Errorf("the container has heard of its end not once: %q", log)
	}
}

// TestStopIsOverAfterRestart ends a container while a daemon is dead that was about to stop it: whoever did it is named, not us.
func TestStopIsOverAfterRestart(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pc := n.HostPodConfig()
	pod := n.RunPod(pc)
	const stubborn = "trap '' TERM; echo ready; while :; do sleep 0.05; done"
	killed := n.Run(pod, pc, n.ContainerConfig(ref, "sh", "-c", stubborn))
	late := n.Run(pod, pc, n.ContainerConfig(ref, "sh", "-c", stubborn))
	polite := n.Run(pod, pc, n.ContainerConfig(ref, "sh", "-c", "trap 'sleep 0.5; exit 7' TERM; echo ready; while :; do sleep 0.05; done"))
	pids := map[string]int{}
	for id, grace := range map[string]int64{killed: 600, late: 1, polite: 600} {
		waitLog(t, n, id, "ready")
		pids[id] = statusPid(t, n, id)
		go func() { _ = n.Runtime.StopContainer(n.Ctx(), id, grace) }()
		waitSent(t, n, id)
	}
	n.Kill()
	killer := killFrom(t, pids[killed], unix.SIGKILL)
	waitGone(t, pids[killed])
	waitGone(t, pids[polite])
	n.Start()
	wantKiller(t, n.WaitExited(killed), unix.SIGKILL, killer)
	if s := n.WaitExited(polite); s.ExitCode != 7 || s.Message != "exited after SIGTERM from embedcri on StopContainer" {
		t.Errorf("exited after SIGTERM: exit code %d, message %q", s.ExitCode, s.Message)
	}
	if s := n.WaitExited(late); s.ExitCode != 137 || s.Message != "stopped by embedcri on StopContainer, grace period of 1 s over" {
		t.Errorf("stubborn: exit code %d, message %q", s.ExitCode, s.Message)
	}
}

// TestShorterStop wants a second stop to shorten the first, and a longer one not to lengthen it; the signal is sent once.
func TestShorterStop(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pc := n.HostPodConfig()
	pod := n.RunPod(pc)
	id := n.Run(pod, pc, n.ContainerConfig(ref, "sh", "-c", "trap 'echo term' TERM; echo ready; while :; do sleep 0.05; done"))
	waitLog(t, n, id, "ready")
	began := time.Now()
	ctx := n.Ctx()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := n.Runtime.StopContainer(ctx, id, 600); err != nil {
			t.Error(err)
		}
	})
	waitLog(t, n, id, "term")
	wg.Go(func() {
		if err := n.Runtime.StopContainer(ctx, id, 1); err != nil {
			t.Error(err)
		}
	})
	if err := n.Runtime.StopContainer(ctx, id, 300); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
	s := n.Status(id)
	if s.ExitCode != 137 || s.Message != "stopped by embedcri on StopContainer, grace period of 1 s over" {
		t.Errorf("exit code %d, message %q", s.ExitCode, s.Message)
	}
	if log := strings.Join(n.ContainerLog(id), "\n"); strings.Count(log, "term") != 1 {
		t.Errorf("log %q, want the signal once", log)
	}
}

// TestStopCreated stops a container that was never started, before and after a restart.
func TestStopCreated(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pc := n.HostPodConfig()
	pod := n.RunPod(pc)
	ids := []string{n.Create(pod, pc, n.ContainerConfig(ref, "true")), n.Create(pod, pc, n.ContainerConfig(ref, "true"))}
	for i, id := range ids {
		if i == 1 {
			n.Kill()
			n.Start()
		}
		if err := n.Runtime.StopContainer(n.Ctx(), id, 600); err != nil {
			t.Error(err)
		}
		s := n.Status(id)
		if s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != 137 || s.StartedAt != 0 ||
			s.Message != "killed by embedcri on request, before it was started" {
			t.Errorf("state %v, exit code %d, started %d, message %q", s.State, s.ExitCode, s.StartedAt, s.Message)
		}
		if err := n.Runtime.StartContainer(n.Ctx(), id); err == nil {
			t.Error("a container that has ended is started")
		}
	}
}

// TestDamagedRecord breaks the record of a running container while the daemon is dead. It is neither forgotten nor taken for dead;
// a stop proves it dead, also where nothing but its id is known any more.
func TestDamagedRecord(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pc := n.HostPodConfig()
	pod := n.RunPod(pc)
	var ids []string
	var pids []int
	for range 2 {
		id := n.Run(pod, pc, n.ContainerConfig(ref, "sleep", "1000"))
		ids, pids = append(ids, id), append(pids, statusPid(t, n, id))
	}
	n.Kill()
	for i, id := range ids {
		if err := os.WriteFile(record(n, id), nil, 0o600); err != nil { // as a power loss leaves it
			t.Fatal(err)
		}
		if i == 1 { // and the bundle with the cgroup's name is gone too
			if err := os.Remove(filepath.Join(n.State, "task", id, "config.json")); err != nil {
				t.Fatal(err)
			}
		}
	}
	n.Start()
	for i, id := range ids {
		if s := n.Status(id); s.State != runtimeapi.ContainerState_CONTAINER_UNKNOWN {
			t.Errorf("state %v, want unknown", s.State)
		}
		if err := unix.Kill(pids[i], 0); err != nil {
			t.Errorf("its process: %v", err)
		}
		began := time.Now()
		if err := n.Runtime.StopContainer(n.Ctx(), id, 600); err != nil {
			t.Fatal(err)
		}
		waitGone(t, pids[i])
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("stop took %v", took)
		}
		if s := n.Status(id); s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != 255 || s.Reason != "Unknown" {
			t.Errorf("stopped: %v, exit code %d, reason %s", s.State, s.ExitCode, s.Reason)
		}
		if err := n.Runtime.RemoveContainer(n.Ctx(), id); err != nil {
			t.Error(err)
		}
	}
}

func record(n *testnode.Node, id string) string {
	return filepath.Join(n.Dir, "root", "state", "containers", id, "status.json")
}

// waitSent waits until the daemon has recorded that it has sent the stop signal.
func waitSent(t testing.TB, n *testnode.Node, id string) {
	t.Helper()
	n.Eventually("the stop signal is recorded", func() error {
		b, err := os.ReadFile(record(n, id))
		if err == nil && !strings.Contains(string(b), `"sent":true`) {
			err = errors.New(string(b))
		}
		return err
	})
}

func waitLog(t testing.TB, n *testnode.Node, id, line string) {
	t.Helper()
	n.Eventually("log has "+line, func() error {
		if log := n.ContainerLog(id); !strings.Contains(strings.Join(log, "\n"), line) {
			return fmt.Errorf("log %q", log)
		}
		return nil
	})
}

func statusPid(t testing.TB, n *testnode.Node, id string) int {
	t.Helper()
	r, err := n.Runtime.ContainerStatus(n.Ctx(), id, true)
	if err != nil {
		t.Fatal(err)
	}
	return infoPid(t, r.Info)
}
