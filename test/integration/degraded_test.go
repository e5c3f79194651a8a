// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testnode"
)

// withoutBPF has bpf(2) make no maps but fail with EPERM in all that this test starts from now on, as a container's seccomp profile
// or a locked-down kernel does. The rest of bpf(2) stays, as runc needs it for device rules on cgroup v2. The filter is on the test's
// own thread, which ends with the test.
func withoutBPF(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()             // never unlocked: the thread is thrown away with its goroutine
	const offsetNr, offsetArg0 = 0, 16 // of struct seccomp_data, on a little-endian machine
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offsetNr},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_BPF, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offsetArg0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.BPF_MAP_CREATE, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// Root needs no PR_SET_NO_NEW_PRIVS for that: seccomp(2).
	if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		t.Fatalf("forbid bpf(2): %v", errno)
	}
}

// TestDegraded runs the daemon where BPF cannot be used. It says so, still tells every exit it is there to see, and does not make
// one up that it was not.
func TestDegraded(t *testing.T) {
	n := testnode.New(t, testnode.Options{NoNetwork: true})
	withoutBPF(t)
	n.Start()
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pods := newEndingPods(n)
	pc, pod := pods[false].pc, pods[false].id

	st, err := n.Runtime.Status(n.Ctx(), true)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range st.Status.Conditions {
		if c.Type == runtimeapi.RuntimeReady && (!c.Status || c.Reason == "" || !strings.Contains(c.Message, "degraded") || !strings.Contains(c.Message, "operation not permitted")) {
			t.Errorf("condition %v", c)
		}
	}

	// While it lives. Nobody takes the time of death but the daemon, when it hears of it.
	ctx := n.Ctx()
	wrong := 0
	all := endings(18)
	for _, e := range all {
		if _, _, err := e.run(ctx, n, pods, ref, time.Second); err != nil {
			t.Error(err)
			wrong++
		}
	}
	t.Logf("%d of %d right without BPF", len(all)-wrong, len(all))
	stays := n.Run(pod, pc, n.ContainerConfig(ref, "sleep", "1000"))
	for want := range 20 {
		_, _, err := n.Runtime.ExecSync(ctx, stays, []string{"sh", "-c", fmt.Sprintf("exit %d", want)}, time.Minute)
		if got := execCode(err); got != want {
			t.Errorf("exec: exit code %d, want %d: %v", got, want, err)
		}
	}
	wantAgreement(t, n)

	// While it does not. Its successor can still read the status of a zombie; what pid 1 has reaped is not known to anybody.
	lost := n.Run(pod, pc, n.ContainerConfig(ref, untilGo("exit 0")...))
	reused := n.Run(pod, pc, n.ContainerConfig(ref, untilGo("exit 0")...))
	lostPid, reusedPid := statusPid(t, n, lost), statusPid(t, n, reused)
	n.Kill()
	for _, pid := range []int{lostPid, reusedPid} {
		if err := touch(fmt.Sprintf("/proc/%d/root/go", pid)); err != nil {
			t.Fatal(err)
		}
		waitReaped(t, pid)
	}
	stranger := withPid(t, reusedPid)
	n.Start()
	for _, id := range []string{lost, reused} {
		wantMessage(t, n.WaitExited(id), 255, "Unknown", "the process is gone and left no record of its exit")
	}
	if err := n.Runtime.StopContainer(n.Ctx(), reused, 0); err != nil {
		t.Error(err)
	}
	if err := n.Runtime.RemoveContainer(n.Ctx(), reused); err != nil {
		t.Error(err)
	}
	if stranger != nil {
		if err := stranger.Process.Signal(unix.Signal(0)); err != nil {
			t.Errorf("a stranger that bears the pid of a dead container: %v", err)
		}
	}
	if err := n.Runtime.StopContainer(n.Ctx(), stays, 0); err != nil {
		t.Error(err)
	}
	// No longer the daemon's child, and nobody records: pid 1 may reap it before anyone has looked. Then it is not known.
	if s := n.Status(stays); s.ExitCode != 137 && !(s.ExitCode == 255 && s.Reason == "Unknown") {
		t.Errorf("stopped after the restart: exit code %d, reason %s, message %q", s.ExitCode, s.Reason, s.Message)
	}
}

// TestRequire wants a daemon that is told not to run degraded to say what is missing, and to end.
func TestRequire(t *testing.T) {
	n := testnode.New(t, testnode.Options{NoNetwork: true, Config: "[exit]\nrequire = true\n"})
	t.Run("no capability", func(t *testing.T) {
		withoutCapabilities(t, unix.CAP_SYS_ADMIN, unix.CAP_BPF, unix.CAP_PERFMON)
		wantRefusal(t, n, "no CAP_BPF", "no CAP_PERFMON", "operation not permitted")
	})
	t.Run("no bpf call", func(t *testing.T) {
		withoutBPF(t)
		wantRefusal(t, n, "exit tracer", "operation not permitted")
	})
	// And with everything there it serves.
	n.Start()
	if s := tracerStats(t, n); s.Capacity == 0 {
		t.Errorf("%+v", s)
	}
}

func wantRefusal(t *testing.T, n *testnode.Node, words ...string) {
	t.Helper()
	out, err := n.Command("run").CombinedOutput()
	var failed *exec.ExitError
	if !errors.As(err, &failed) || failed.ExitCode() <= 0 {
		t.Errorf("the daemon ends with %v", err)
	}
	for _, w := range words {
		if !strings.Contains(string(out), w) {
			t.Errorf("the daemon does not say %q: %s", w, out)
		}
	}
}

// withoutCapabilities takes capabilities from all that this test starts from now on.
func withoutCapabilities(t *testing.T, caps ...int) {
	t.Helper()
	runtime.LockOSThread()
	for _, c := range caps {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil {
			t.Fatalf("drop capability %d: %v", c, err)
		}
	}
}

// waitReaped waits until nothing is left of a process.
func waitReaped(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join("/proc", fmt.Sprint(pid))); errors.Is(err, os.ErrNotExist) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d is not reaped", pid)
		}
	}
}

// withPid starts a process that bears a certain pid, or returns nil if somebody was faster.
func withPid(t *testing.T, pid int) *exec.Cmd {
	t.Helper()
	const last = "/proc/sys/kernel/ns_last_pid"
	for range 20 {
		cmd := exec.Command("sleep", "1000")
		if err := os.WriteFile(last, fmt.Append(nil, pid-1), 0); err != nil {
			t.Logf("cannot choose a pid: %v", err)
			return nil
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if cmd.Process.Pid == pid {
			t.Logf("pid %d is in use again", pid)
			t.Cleanup(func() { endProcess(cmd) })
			return cmd
		}
		endProcess(cmd)
	}
	t.Logf("pid %d was not to be had", pid)
	return nil
}

func endProcess(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}
