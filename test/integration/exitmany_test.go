// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"

	"github.com/embedcri/embedcri/internal/testnode"
)

// dateTolerance is how far finishedAt may be from what the test saw of a death.
const dateTolerance = 5 * time.Millisecond

// TestManyEndings takes 300 containers to their ends, 8 at a time: every exit code and time has to be right.
func TestManyEndings(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pods := newEndingPods(n)
	ctx := n.Ctx()
	const runs = 300
	var mu sync.Mutex
	var seen []time.Duration // from finishedAt to when the test saw the death
	var worst time.Duration
	right := 0
	began := time.Now()
	sideBySide(endings(runs), func(e ending) {
		d, finished, err := e.run(ctx, n, pods, ref, dateTolerance)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			t.Error(err)
			return
		}
		right++
		worst = max(worst, d.off(finished))
		seen = append(seen, d.before.Sub(finished))
	})
	if right == 0 {
		return
	}
	slices.Sort(seen)
	t.Logf("%d of %d right in %v, finishedAt at most %v outside of what the test saw; it saw the death through its pidfd %v after finishedAt at the median, %v at 99%%, %v at the most",
		right, runs, time.Since(began).Round(time.Millisecond), worst, seen[len(seen)/2], seen[len(seen)*99/100], seen[len(seen)-1])
	wantAgreement(t, n)
}

// TestFinishedAt compares finishedAt with the last look at the clock of processes that end at once after it. On a busy machine
// they may be kept waiting in between, hence the median.
func TestFinishedAt(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	exit := registry.Ref(t, "exit:1")
	n.Pull(exit)
	pc := n.HostPodConfig()
	pod := n.RunPod(pc)
	ctx := n.Ctx()
	const runs = 100
	var mu sync.Mutex
	var off []time.Duration
	sideBySide(make([]struct{}, runs), func(struct{}) {
		finished, said, err := lastWords(ctx, n, pod, pc, exit)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			t.Error(err)
			return
		}
		off = append(off, finished.Sub(said))
	})
	if t.Failed() {
		return
	}
	slices.Sort(off)
	within := 0
	for _, d := range off {
		if d.Abs() <= dateTolerance {
			within++
		}
	}
	t.Logf("finishedAt after the process' own last look at the clock: least %v, median %v, most %v; %d of %d within %v",
		off[0], off[runs/2], off[runs-1], within, runs, dateTolerance)
	if off[0] < -dateTolerance || off[runs/2] > dateTolerance {
		t.Errorf("finishedAt is off: %v", off)
	}
}

// lastWords runs a container that says the time and ends.
func lastWords(ctx context.Context, n *testnode.Node, pod string, pc *runtimeapi.PodSandboxConfig, image string) (finished, said time.Time, err error) {
	cfg := n.ContainerConfig(image, "/exit", "3", "0", "say")
	cfg.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	id, err := n.Runtime.CreateContainer(ctx, pod, cfg, pc)
	if err != nil {
		return finished, said, err
	}
	if err := n.Runtime.StartContainer(ctx, id); err != nil {
		return finished, said, err
	}
	s, err := waitExited(ctx, n, id)
	if err != nil {
		return finished, said, err
	}
	log, err := os.ReadFile(s.LogPath)
	if err != nil {
		return finished, said, err
	}
	var at string
	var ns int64
	if _, err := fmt.Sscanf(string(log), "%s stdout F %d", &at, &ns); err != nil || s.ExitCode != 3 {
		return finished, said, fmt.Errorf("exit code %d, log %q: %w", s.ExitCode, log, err)
	}
	return time.Unix(0, s.FinishedAt), time.Unix(0, ns), nil
}

// TestManyExecs runs 1,000 execs, 8 at a time, with codes chosen at random.
func TestManyExecs(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref, exit := registry.Ref(t, "busybox:1"), registry.Ref(t, "exit:1")
	n.Pull(ref)
	n.Pull(exit)
	pc := n.HostPodConfig()
	pod := n.RunPod(pc)
	ctr := n.Run(pod, pc, n.ContainerConfig(ref, "sleep", "1000"))
	ctx := n.Ctx()
	const runs = 1000
	rng := rand.New(rand.NewPCG(3, 1))
	codes := make([]int, runs)
	for i := range codes {
		codes[i] = rng.IntN(256)
	}
	began := time.Now()
	var mu sync.Mutex
	wrong := 0
	sideBySide(codes, func(want int) {
		_, _, err := n.Runtime.ExecSync(ctx, ctr, []string{"sh", "-c", fmt.Sprintf("exit %d", want)}, time.Minute)
		if got := execCode(err); got != want {
			mu.Lock()
			defer mu.Unlock()
			wrong++
			t.Errorf("exit code %d, want %d: %v", got, want, err)
		}
	})
	t.Logf("%d of %d right in %v", runs-wrong, runs, time.Since(began).Round(time.Millisecond))
	wantAgreement(t, n)
	if s := tracerStats(t, n); s.Slots != 1 {
		t.Errorf("%d slots of the tracer are taken, want only the container's", s.Slots)
	}
}

// execCode is the exit code that an ExecSync's error tells; -1 if it is another error.
func execCode(err error) int {
	var code utilexec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return code.ExitStatus()
	}
	return -1
}

// sideBySide calls f for each of all, 8 at a time.
func sideBySide[T any](all []T, f func(T)) {
	jobs := make(chan T)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for j := range jobs {
				f(j)
			}
		})
	}
	for _, j := range all {
		jobs <- j
	}
	close(jobs)
	wg.Wait()
}

// tracer is what a verbose Status tells of the tracer.
type tracer struct {
	Slots, Capacity     int
	Exits               []uint64
	Compared, Disagreed uint64
	LoopError           uint64
	Kernel              struct{ RecentFailed, OOMFailed uint64 }
}

func tracerStats(t testing.TB, n *testnode.Node) (s tracer) {
	t.Helper()
	r, err := n.Runtime.Status(n.Ctx(), true)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(r.Info["tracer"]), &s); err != nil {
		t.Fatalf("verbose info has %q of the tracer: %v", r.Info["tracer"], err)
	}
	return s
}

// wantAgreement checks that no two sources have told a different status, that there was one for every exit, and that nothing was
// dropped.
func wantAgreement(t testing.TB, n *testnode.Node) {
	t.Helper()
	s := tracerStats(t, n)
	if s.Disagreed != 0 || s.LoopError != 0 || s.Exits[0] != 0 || s.Kernel.RecentFailed != 0 || s.Kernel.OOMFailed != 0 {
		t.Errorf("the tracer's numbers: %+v", s)
	}
	if strings.Contains(n.Log(), "sources disagree") {
		t.Error("the log tells of sources that disagree")
	}
}
