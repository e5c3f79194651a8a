// SPDX-License-Identifier: Apache-2.0

package task

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/pkg/exitbpf"
)

// TestStopMessage wants us to own up to what we did, and to nothing else.
func TestStopMessage(t *testing.T) {
	const us, before, other = 100, 99, 7
	started := time.Unix(1, 0)
	kill := func(sig unix.Signal, by *exitbpf.Sender) *Exit {
		return &Exit{Known: true, Wait: unix.WaitStatus(sig), Killer: by}
	}
	asked := StopIntent{Signal: unix.SIGTERM, Grace: 30 * time.Second, Sent: true, Senders: []int{before, us}}
	forced := asked
	forced.Forced = true
	atOnce := StopIntent{Signal: unix.SIGTERM, Forced: true, Senders: []int{us}}
	by := func(pid int) *exitbpf.Sender { return &exitbpf.Sender{Pid: pid} }

	for name, c := range map[string]struct {
		stop *StopIntent
		exit *Exit
		want string
	}{
		"nobody asked":                         {nil, kill(unix.SIGKILL, by(us)), ""},
		"by us, after the grace period":        {&forced, kill(unix.SIGKILL, by(us)), "stopped by embedcri on StopContainer, grace period of 30 s over"},
		"by the daemon before us":              {&asked, kill(unix.SIGTERM, by(before)), "stopped by embedcri on StopContainer, with SIGTERM"},
		"by us, nobody saw":                    {&asked, kill(unix.SIGTERM, nil), "stopped by embedcri on StopContainer, with SIGTERM"},
		"by us, at once":                       {&atOnce, kill(unix.SIGKILL, by(us)), "killed by embedcri on request, without a grace period"},
		"by another, with our signal":          {&asked, kill(unix.SIGTERM, by(other)), ""},
		"by another, after the period":         {&forced, kill(unix.SIGKILL, by(other)), ""},
		"by the kernel, while we ran":          {&forced, kill(unix.SIGKILL, &exitbpf.Sender{Pid: us, Kernel: true}), ""},
		"out of memory, nobody saw":            {&forced, &Exit{Known: true, Wait: unix.WaitStatus(unix.SIGKILL), OOM: true}, ""},
		"killed before we force":               {&asked, kill(unix.SIGKILL, nil), ""},
		"a fault on the way down":              {&asked, kill(unix.SIGSEGV, by(us)), ""},
		"obeyed in its own way":                {&asked, &Exit{Known: true, Wait: exitedWith(3)}, "exited after SIGTERM from embedcri on StopContainer"},
		"exited, and we had not sent anything": {&StopIntent{Signal: unix.SIGTERM}, &Exit{Known: true}, ""},
		"lost":                                 {&forced, &Exit{}, ""},
	} {
		if got := stopMessage(Status{StartedAt: started, Stop: c.stop, Exit: c.exit}); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if got := stopMessage(Status{Stop: &atOnce, Exit: kill(unix.SIGKILL, by(us))}); got != "killed by embedcri on request, before it was started" {
		t.Errorf("never started: %q", got)
	}
	for d, want := range map[time.Duration]string{2 * time.Second: "2 s", 90 * time.Second: "90 s", 1500 * time.Millisecond: "1.5 s"} {
		if got := forPeople(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

// TestIntentIsCopied wants a status that somebody holds to stay as it is.
func TestIntentIsCopied(t *testing.T) {
	a := &StopIntent{Senders: append(make([]int, 0, 4), 1)}
	b := a.with(func(i *StopIntent) { i.sign(); i.sign(); i.Sent = true })
	c := a.with(func(i *StopIntent) { i.Senders = append(i.Senders, 2) })
	if a.Sent || len(a.Senders) != 1 || len(b.Senders) != 2 || b.Senders[1] != os.Getpid() || c.Senders[1] != 2 {
		t.Errorf("%+v, %+v, %+v", a, b, c)
	}
}

// TestStartTime reads it of a process whose name is made to confuse.
func TestStartTime(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip(err)
	}
	name := t.TempDir() + "/a) Z 1 (b"
	if err := os.Symlink(sleep, name); err != nil {
		t.Fatal(err)
	}
	first := startOf(t, name)
	self, err := startTime(os.Getpid())
	if err != nil || first < self {
		t.Errorf("child started at %d, its parent at %d: %v", first, self, err)
	}
	if _, err := startTime(1 << 22); err == nil { // PID_MAX_LIMIT
		t.Error("a process that cannot be has a start time")
	}
}

func startOf(t *testing.T, program string) uint64 {
	t.Helper()
	cmd := exec.Command(program, "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	start, err := startTime(cmd.Process.Pid)
	if err != nil {
		t.Error(err)
	}
	return start
}
