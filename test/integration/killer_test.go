// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testnode"
)

// killFrom has another process send a signal, and returns that process' pid. It is bash, for its kill is built in: the sender is
// the pid that we know.
func killFrom(t testing.TB, pid int, sig unix.Signal) int {
	t.Helper()
	cmd := exec.Command("bash", "-c", fmt.Sprintf("kill -%d %d", int(sig), pid))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("kill: %v: %s", err, out)
	}
	return cmd.Process.Pid
}

// stamp is a time in a message.
const stamp = `20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*Z`

// wantKiller checks the sentence that names a killer on the host, and that the time in it is that of the death.
func wantKiller(t testing.TB, s *runtimeapi.ContainerStatus, sig unix.Signal, pid int) {
	t.Helper()
	wantMessage(t, s, 128+int32(sig), "Error", fmt.Sprintf(`killed by %s from pid %d \(bash\), uid 0, at `+stamp, unix.SignalName(sig), pid))
}

// wantMessage checks how a container has ended. message is a pattern for all of the message.
func wantMessage(t testing.TB, s *runtimeapi.ContainerStatus, code int32, reason, message string) {
	t.Helper()
	ok, err := regexp.MatchString("^(?:"+message+")$", s.Message)
	if err != nil {
		t.Fatal(err)
	}
	if !ok || s.ExitCode != code || s.Reason != reason {
		t.Errorf("exit code %d, reason %s, message %q\nwant %d, %s, %s", s.ExitCode, s.Reason, s.Message, code, reason, message)
	}
	if at := regexp.MustCompile(stamp).FindString(s.Message); at != "" {
		when, err := time.Parse(time.RFC3339Nano, at)
		if d := time.Unix(0, s.FinishedAt).Sub(when); err != nil || d < 0 || d > time.Second {
			t.Errorf("%q, but it died at %v", s.Message, time.Unix(0, s.FinishedAt).UTC())
		}
	}
}

// TestWhoKilledIt ends containers by every hand there is, and wants that hand named.
func TestWhoKilledIt(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pods := newEndingPods(n)
	run := func(node bool, command ...string) string {
		cfg := n.ContainerConfig(ref, command...)
		if node {
			cfg.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_NODE
		}
		return n.Run(pods[node].id, pods[node].pc, cfg)
	}
	stop := func(id string, grace int64) *runtimeapi.ContainerStatus {
		t.Helper()
		if err := n.Runtime.StopContainer(n.Ctx(), id, grace); err != nil {
			t.Error(err)
		}
		return n.Status(id)
	}

	t.Run("another root process", func(t *testing.T) {
		id := run(false, "sleep", "1000")
		pid := killFrom(t, statusPid(t, n, id), unix.SIGKILL)
		wantKiller(t, n.WaitExited(id), unix.SIGKILL, pid)
		info := verbose(t, n, id)
		for key, want := range map[string]string{
			"killedBy": `"process"`, "killerPid": strconv.Itoa(pid), "killerComm": `"bash"`, "killerUID": "0",
			"killerInContainer": "false", "exitSignal": `"SIGKILL"`, "exitSource": `"bpf"`, "oomKills": "0",
		} {
			if got := string(info[key]); got != want {
				t.Errorf("verbose %s is %s, want %s", key, got, want)
			}
		}
		if lines := logLines(t, n, "container was killed", id); len(lines) != 1 ||
			!strings.Contains(lines[0], fmt.Sprintf("byPid=%d byComm=\"bash\" byUID=0", pid)) {
			t.Errorf("log: %q", lines)
		}
	})
	t.Run("another root process, signal obeyed", func(t *testing.T) {
		id := run(true, "sleep", "1000")
		pid := killFrom(t, statusPid(t, n, id), unix.SIGTERM)
		wantKiller(t, n.WaitExited(id), unix.SIGTERM, pid)
	})
	t.Run("another root process, while we wait for the grace period", func(t *testing.T) {
		id := run(false, "sleep", "1000") // as pid 1 it ignores SIGTERM
		target := statusPid(t, n, id)
		done := make(chan error, 1)
		go func() { done <- n.Runtime.StopContainer(n.Ctx(), id, 600) }()
		waitSent(t, n, id)
		pid := killFrom(t, target, unix.SIGKILL)
		if err := <-done; err != nil {
			t.Error(err)
		}
		wantKiller(t, n.Status(id), unix.SIGKILL, pid)
	})
	t.Run("its own child", func(t *testing.T) {
		id := run(true, "sh", "-c", "sh -c 'kill -9 $PPID'; sleep 1000")
		wantMessage(t, n.WaitExited(id), 137, "Error", `killed by SIGKILL from pid \d+ \(sh\), uid 0, in the container itself, at `+stamp)
	})
	t.Run("itself", func(t *testing.T) {
		id := run(true, "sh", "-c", "kill -ABRT $$")
		wantMessage(t, n.WaitExited(id), 134, "Error", `killed by SIGABRT from pid \d+ \(sh\), uid 0, in the container itself, at `+stamp+`(, core dumped)?`)
	})
	t.Run("an exec", func(t *testing.T) {
		id := run(true, "sleep", "1000")
		_, _, _ = n.Runtime.ExecSync(n.Ctx(), id, []string{"sh", "-c", fmt.Sprintf("kill -9 %d", statusPid(t, n, id))}, 10*time.Second)
		wantMessage(t, n.WaitExited(id), 137, "Error", `killed by SIGKILL from pid \d+ \(sh\), uid 0, in the container itself, at `+stamp)
	})
	t.Run("stop, signal obeyed", func(t *testing.T) {
		wantMessage(t, stop(run(true, "sleep", "1000"), 30), 143, "Error", "stopped by embedcri on StopContainer, with SIGTERM")
	})
	t.Run("stop, signal handled", func(t *testing.T) {
		id := run(false, "sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.02; done")
		waitLog(t, n, id, "ready")
		wantMessage(t, stop(id, 30), 0, "Completed", "exited after SIGTERM from embedcri on StopContainer")
	})
	t.Run("stop, grace period over", func(t *testing.T) {
		id := run(false, "sleep", "1000")
		wantMessage(t, stop(id, 1), 137, "Error", "stopped by embedcri on StopContainer, grace period of 1 s over")
		if lines := logLines(t, n, "container was killed", id); len(lines) != 1 || !strings.Contains(lines[0], `byComm="embedcri"`) {
			t.Errorf("log: %q", lines)
		}
	})
	t.Run("stop without a grace period", func(t *testing.T) {
		wantMessage(t, stop(run(false, "sleep", "1000"), 0), 137, "Error", "killed by embedcri on request, without a grace period")
	})
	t.Run("the kernel, for a fault", func(t *testing.T) {
		id := run(false, "sh", "-c", "ulimit -c 0; f() { f; }; f") // until the stack is over
		wantMessage(t, n.WaitExited(id), 139, "Error", "killed by SIGSEGV from the kernel, at "+stamp)
		if by := string(verbose(t, n, id)["killedBy"]); by != `"kernel"` {
			t.Errorf("verbose killedBy is %s", by)
		}
	})
	t.Run("the kernel, for seccomp", func(t *testing.T) {
		profile := filepath.Join(n.Dir, "seccomp.json")
		const deadly = `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_KILL_PROCESS"}]}`
		if err := os.WriteFile(profile, []byte(deadly), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := n.ContainerConfig(ref, "sh", "-c", "ulimit -c 0; exec mkdir /x")
		cfg.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: profile}
		id := n.Run(pods[false].id, pods[false].pc, cfg)
		wantMessage(t, n.WaitExited(id), 159, "Error", "killed by SIGSYS from the kernel, system call forbidden by seccomp, at "+stamp)
	})
	t.Run("while the daemon is dead", func(t *testing.T) {
		id, child := run(false, "sleep", "1000"), run(true, untilGo("sh -c 'kill -9 $PPID'; sleep 1000")...)
		fault := run(false, untilGo("ulimit -c 0; f() { f; }; f")...)
		pid, childPid, faultPid := statusPid(t, n, id), statusPid(t, n, child), statusPid(t, n, fault)
		n.Kill()
		killer := killFrom(t, pid, unix.SIGKILL)
		for _, p := range []int{childPid, faultPid} {
			if err := touch(fmt.Sprintf("/proc/%d/root/go", p)); err != nil {
				t.Fatal(err)
			}
			waitGone(t, p)
		}
		waitGone(t, pid)
		n.Start()
		wantKiller(t, n.WaitExited(id), unix.SIGKILL, killer)
		wantMessage(t, n.WaitExited(child), 137, "Error", `killed by SIGKILL from pid \d+ \(sh\), uid 0, in the container itself, at `+stamp)
		wantMessage(t, n.WaitExited(fault), 139, "Error", "killed by SIGSEGV from the kernel, at "+stamp)
	})
	t.Run("told again by the next daemon", func(t *testing.T) {
		id := run(false, "sleep", "1000")
		pid := killFrom(t, statusPid(t, n, id), unix.SIGKILL)
		before := n.WaitExited(id)
		logLines(t, n, "container was killed", id) // else it may be killed between showing the exit and writing of it
		n.Kill()
		n.Start()
		after := n.Status(id)
		wantKiller(t, after, unix.SIGKILL, pid)
		if after.FinishedAt != before.FinishedAt || after.Message != before.Message {
			t.Errorf("before %v, after %v", before, after)
		}
		if lines := logLines(t, n, "container was killed", id); len(lines) != 1 {
			t.Errorf("logged %d times: %q", len(lines), lines)
		}
	})
	wantAgreement(t, n)
}

// verbose returns the fields of the verbose info.
func verbose(t testing.TB, n *testnode.Node, id string) map[string]json.RawMessage {
	t.Helper()
	r, err := n.Runtime.ContainerStatus(n.Ctx(), id, true)
	if err != nil {
		t.Fatal(err)
	}
	var info map[string]json.RawMessage
	if err := json.Unmarshal([]byte(r.Info["info"]), &info); err != nil {
		t.Fatal(err)
	}
	return info
}

// logLines returns the lines of the daemon's log that hold all of words; it waits for the first, which is written when the exit is
// already shown.
func logLines(t testing.TB, n *testnode.Node, words ...string) (found []string) {
	t.Helper()
	n.Eventually("a line in the log", func() error {
		log, err := os.ReadFile(n.LogFile)
		if err != nil {
			return err
		}
		found = nil
		for line := range strings.Lines(string(log)) {
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
				found = append(found, line)
			}
		}
		if len(found) == 0 {
			return fmt.Errorf("none with %q", words)
		}
		return nil
	})
	return found
}
