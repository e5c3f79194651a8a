// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Programs under testdata are compiled once a run.
var programs_ struct {
	sync.Mutex
	dir string
}

func TestMain(m *testing.M) {
	if run := daemons()[os.Getenv(daemonEnv)]; run != nil {
		run()
		return
	}
	// As the daemon is: orphans of what the tests start come to us.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	code := m.Run()
	if programs_.dir != "" {
		_ = os.RemoveAll(programs_.dir)
	}
	os.Exit(code)
}

// program returns the path of testdata/<name>.c, compiled.
func program(t testing.TB, name string) string {
	t.Helper()
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skipf("C compiler: %v", err)
	}
	programs_.Lock()
	defer programs_.Unlock()
	if programs_.dir == "" {
		if programs_.dir, err = os.MkdirTemp("", "exitbpf"); err != nil {
			t.Fatal(err)
		}
	}
	bin := filepath.Join(programs_.dir, name)
	if _, err := os.Stat(bin); err == nil {
		return bin
	}
	out, err := exec.Command(cc, "-Wall", "-O1", "-static", "-pthread", "-o", bin, filepath.Join("testdata", name+".c")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

// talker is a running process that takes and gives lines.
type talker struct {
	t   testing.TB
	pid int
	in  *os.File
	out *bufio.Reader
}

// talk starts a program whose reaping is left to the tracer.
func talk(t testing.TB, attr *os.ProcAttr, argv ...string) *talker {
	t.Helper()
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer inR.Close()
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer outW.Close()
	attr.Files = []*os.File{inR, outW, os.Stderr}
	p, err := os.StartProcess(argv[0], argv, attr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = inW.Close(); _ = outR.Close() })
	pid := p.Pid
	_ = p.Release()
	return &talker{t: t, pid: pid, in: inW, out: bufio.NewReader(outR)}
}

func (k *talker) say(format string, args ...any) {
	k.t.Helper()
	if _, err := fmt.Fprintf(k.in, format+"\n", args...); err != nil {
		k.t.Fatal(err)
	}
}

func (k *talker) hear() string {
	k.t.Helper()
	s, err := k.out.ReadString('\n')
	if err != nil {
		k.t.Fatalf("process %d says %q: %v", k.pid, s, err)
	}
	return strings.TrimSpace(s)
}

// swarm is testdata/swarm.c.
type swarm struct{ *talker }

func newSwarm(t testing.TB) swarm {
	t.Helper()
	cmd := exec.Command(program(t, "swarm"))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_, _ = io.Copy(io.Discard, out)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return swarm{&talker{t: t, pid: cmd.Process.Pid, in: in.(*os.File), out: bufio.NewReaderSize(out, 1<<16)}}
}

// fork starts a batch; held children wait for die.
func (s swarm) fork(n int, seed uint32, held bool) (pids []int) {
	s.t.Helper()
	hold := 0
	if held {
		hold = 1
	}
	s.say("fork %d %d %d", n, seed, hold)
	for {
		line := s.hear()
		if line == "forked" {
			return pids
		}
		var pid int
		if _, err := fmt.Sscanf(line, "pid %d", &pid); err != nil {
			s.t.Fatalf("%q: %v", line, err)
		}
		pids = append(pids, pid)
	}
}

func (s swarm) die() { s.say("go") }

// truth is what wait4 told a process' parent.
type truth struct {
	status unix.WaitStatus
	at     int64 // CLOCK_REALTIME just before it died, 0 if it did not say
}

func (s swarm) wait() map[int]truth {
	s.t.Helper()
	s.say("wait")
	m := map[int]truth{}
	for {
		line := s.hear()
		if line == "waited" {
			return m
		}
		var pid int
		var st uint32
		var at int64
		if _, err := fmt.Sscanf(line, "exit %d %d %d", &pid, &st, &at); err != nil {
			s.t.Fatalf("%q: %v", line, err)
		}
		m[pid] = truth{unix.WaitStatus(st), at}
	}
}

type cgroupLine struct{ controllers, path string }

// splitLines reads /proc/self/cgroup: cgroups(7).
func splitLines(b []byte) (lines []cgroupLine) {
	for l := range strings.Lines(string(b)) {
		if f := strings.SplitN(strings.TrimSpace(l), ":", 3); len(f) == 3 {
			lines = append(lines, cgroupLine{f[1], f[2]})
		}
	}
	return lines
}
