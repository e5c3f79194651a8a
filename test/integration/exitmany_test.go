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

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"

	"github.com/embedcri/embedcri/internal/testnode"
)

// dateTolerance is how far finishedAt may be from what the test saw of a death.
const dateTolerance = 5 * time.Millisecond

// ending is one way for a container to end.
type ending struct {
	command []string
	node    bool        // in the node's pid namespace, where no signal is ignored for the sake of pid 1
	signal  unix.Signal // sent by the test to the container's init; 0: it ends when /go is there
	want    int32
}

// endings are n of them: a third exits with codes over all of 0–255, a third has a child that is killed from inside, and a third
// is killed from outside by the test, with every signal that ends a process.
func endings(n int) []ending {
	deadly := deadlySignals()
	var all []ending
	for i := range n {
		switch sig := deadly[i/3%len(deadly)]; i % 3 {
		case 0:
			code := i / 3 * 255 / ((n - 1) / 3)
			all = append(all, ending{command: untilGo(fmt.Sprintf("exit %d", code)), want: int32(code)})
		case 1:
			if sig == unix.SIGQUIT {
				sig = unix.SIGKILL // busybox' shell ignores SIGQUIT
			}
			all = append(all, ending{command: untilGo(fmt.Sprintf("sh -c 'kill -%d $$'; exit $?", int(sig))), want: 128 + int32(sig)})
		case 2:
			all = append(all, ending{command: []string{"sleep", "1000"}, node: true, signal: sig, want: 128 + int32(sig)})
		}
	}
	return all
}

// endingPods are a pod whose containers have pid namespaces of their own, and one whose containers share the node's.
type endingPods map[bool]struct {
	id string
	pc *runtimeapi.PodSandboxConfig
}

func newEndingPods(n *testnode.Node) endingPods {
	n.T.Helper()
	pods := endingPods{}
	for _, node := range []bool{false, true} {
		pc := n.HostPodConfig()
		if node {
			pc.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_NODE
		}
		p := pods[node]
		p.id, p.pc = n.RunPod(pc), pc
		pods[node] = p
	}
	return pods
}

// untilGo waits without work for touch(/go), then goes on: with a FIFO there, touch waits for its reader, and if touch comes first
// it leaves an empty file.
func untilGo(then string) []string {
	return []string{"sh", "-c", "mkfifo /go 2>/dev/null; read x </go; " + then}
}

// deadlySignals are those whose default is to end the process: signal(7). SIGCHLD, SIGCONT, SIGURG and SIGWINCH are ignored, the
// stop signals stop.
func deadlySignals() []unix.Signal {
	harmless := []unix.Signal{unix.SIGCHLD, unix.SIGCONT, unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGURG, unix.SIGWINCH}
	var all []unix.Signal
	for s := unix.Signal(1); s <= 64; s++ {
		if !slices.Contains(harmless, s) && s != 32 && s != 33 { // the C library's own; busybox may block them
			all = append(all, s)
		}
	}
	return all
}

// death is what the test saw of a container's end, without the runtime: it did not die before the first and not after the second.
type death struct{ after, before time.Time }

// off is how far at is outside.
func (d death) off(at time.Time) time.Duration {
	return max(d.after.Sub(at), at.Sub(d.before), 0)
}

// run takes a container to its end. It does not use the Fatal helpers of testnode, as it runs beside the test's goroutine.
func (e ending) run(ctx context.Context, n *testnode.Node, pods endingPods, image string, tolerance time.Duration) (d death, finished time.Time, err error) {
	id, pid, err := e.start(ctx, n, pods, image)
	if err != nil {
		return d, finished, err
	}
	if d, err = e.end(pid); err != nil {
		return d, finished, err
	}
	s, err := waitExited(ctx, n, id)
	if err != nil {
		return d, finished, err
	}
	if err := e.check(s, d, tolerance); err != nil {
		return d, finished, err
	}
	return d, time.Unix(0, s.FinishedAt), n.Runtime.RemoveContainer(ctx, id)
}

func waitExited(ctx context.Context, n *testnode.Node, id string) (*runtimeapi.ContainerStatus, error) {
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) { // poll to the deadline
		r, err := n.Runtime.ContainerStatus(ctx, id, false)
		if err != nil {
			return nil, err
		}
		if s := r.Status; s.State == runtimeapi.ContainerState_CONTAINER_EXITED {
			return s, nil
		} else if time.Now().After(deadline) {
			return nil, fmt.Errorf("is %v, long after its death", s.State)
		}
	}
}

func (e ending) check(s *runtimeapi.ContainerStatus, d death, tolerance time.Duration) error {
	reason := "Error"
	if e.want == 0 {
		reason = "Completed"
	}
	if off := d.off(time.Unix(0, s.FinishedAt)); s.ExitCode != e.want || s.Reason != reason || off > tolerance {
		return fmt.Errorf("%v, signal %d: exit code %d, want %d; reason %s; finished %v off the truth", e.command, e.signal, s.ExitCode, e.want, s.Reason, off)
	}
	return nil
}

func (e ending) start(ctx context.Context, n *testnode.Node, pods endingPods, image string) (id string, pid int, err error) {
	cfg := n.ContainerConfig(image, e.command...)
	ns := cfg.Linux.SecurityContext.NamespaceOptions
	ns.Network = runtimeapi.NamespaceMode_NODE
	if e.node {
		ns.Pid = runtimeapi.NamespaceMode_NODE
	}
	pod := pods[e.node]
	if id, err = n.Runtime.CreateContainer(ctx, pod.id, cfg, pod.pc); err != nil {
		return "", 0, err
	}
	if err := n.Runtime.StartContainer(ctx, id); err != nil {
		return "", 0, err
	}
	r, err := n.Runtime.ContainerStatus(ctx, id, true)
	if err != nil {
		return "", 0, err
	}
	var info struct {
		Pid int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(r.Info["info"]), &info); err != nil || info.Pid == 0 {
		return "", 0, fmt.Errorf("verbose info has no pid: %v", err)
	}
	return id, info.Pid, e.waitProgram(info.Pid)
}

// waitProgram waits for the runtime's init to have become the program. StartContainer returns a moment earlier, and until then
// signals do to it what they do to a Go program.
func (e ending) waitProgram(pid int) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(comm)) == e.command[0] {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("process %d is still %q, not %q", pid, comm, e.command[0])
		}
	}
}

// end ends the container's process and watches it die through a pidfd of the test's own.
func (e ending) end(pid int) (d death, err error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return d, fmt.Errorf("open pidfd of %d: %w", pid, err)
	}
	defer unix.Close(fd)
	d.after = time.Now()
	if e.signal != 0 {
		err = unix.PidfdSendSignal(fd, e.signal, nil, 0)
	} else {
		err = touch(fmt.Sprintf("/proc/%d/root/go", pid))
	}
	if err != nil {
		return d, err
	}
	for again := e.signal != 0; ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 15_000)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return d, err
		case n == 0 && again:
			// Seen once in some 400: not the tracer's doing, which has no say in it. What the kernel thinks of the signal is printed.
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			fmt.Printf("process %d has not ended of %v; once more\n%s\n", pid, e.signal, status)
			again = false
			if err := unix.PidfdSendSignal(fd, e.signal, nil, 0); err != nil {
				return d, err
			}
		case n == 0:
			return d, fmt.Errorf("process %d does not end", pid)
		default:
			d.before = time.Now()
			return d, nil
		}
	}
}

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
