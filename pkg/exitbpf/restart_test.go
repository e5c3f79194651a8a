// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/testenv"
)

// The test binary executed again with this variable is a daemon; its value says
// which. It gets the tracer's directory as first argument.
const daemonEnv = "EMBEDCRI_EXITBPF_TEST_DAEMON"

func daemons() map[string]func() {
	return map[string]func(){"watcher": watcherDaemon, "nested": nestedDaemon, "powerless": powerlessDaemon}
}

// startDaemon executes the test binary as a daemon.
func startDaemon(t *testing.T, which, dir string, sys *syscall.SysProcAttr) (*exec.Cmd, *talker) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, dir)
	cmd.Env = append(os.Environ(), daemonEnv+"="+which)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = sys
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
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd, &talker{t: t, pid: cmd.Process.Pid, in: in.(*os.File), out: bufio.NewReader(out)}
}

// must ends a daemon whose step failed.
func must[T any](v T, err error) T {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%+v\n", err)
		os.Exit(1)
	}
	return v
}

// watcherDaemon watches each pid it reads and lives until it is killed.
func watcherDaemon() {
	tr := must(Open(Options{Dir: os.Args[1], Require: true}))
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		pid := must(strconv.Atoi(in.Text()))
		must(tr.Watch(Key(pid), pid))
		fmt.Println("watched", pid)
	}
	select {}
}

// A daemon is killed, 500 of the processes it watched end in all ways, and the
// next one knows each, with its own time of death.
func TestDaemonKilled(t *testing.T) {
	dir := newDir(t)
	cmd, d := startDaemon(t, "watcher", dir, nil)
	s := newSwarm(t)
	pids := s.fork(500, 42, true)
	for _, pid := range pids {
		d.say("%d", pid)
		if got := d.hear(); got != fmt.Sprintf("watched %d", pid) {
			t.Fatal(got)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	s.die()
	truths := s.wait()
	allDead := time.Now()

	tr := open(t, Options{Dir: dir, Require: true})
	if n := len(tr.Keys()); n != len(pids) {
		t.Errorf("%d records, want %d", n, len(pids))
	}
	distinct := map[time.Time]bool{}
	for _, pid := range pids {
		w := watch(t, tr, Key(pid), pid)
		select {
		case <-w.Done():
		default:
			t.Fatal("dead, but not done at once")
		}
		e, err := w.Exit()
		if err != nil || e.Status != truths[pid].status || e.Source != SourceBPF {
			t.Errorf("process %d: %+v, %v; wait4 says %#x", pid, e, err, truths[pid].status)
		}
		if words := time.Unix(0, truths[pid].at); e.At.Before(words.Add(-5*time.Millisecond)) || e.At.After(allDead.Add(5*time.Millisecond)) {
			t.Errorf("process %d died %v, last words %v, all were dead %v", pid, e.At, words, allDead)
		}
		distinct[e.At] = true
		if err := tr.Forget(Key(pid)); err != nil {
			t.Error(err)
		}
	}
	if len(distinct) < len(pids)*9/10 {
		t.Errorf("only %d different times of death", len(distinct))
	}
}

// A daemon in a pid namespace of its own (kind, a DaemonSet) sees other numbers
// than the kernel's: so must its records.
func TestNestedDaemon(t *testing.T) {
	dir := newDir(t)
	host := openNew(t) // a second daemon, outside, sees what it watches and no more
	cmd, d := startDaemon(t, "nested", dir, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS})
	for {
		line := d.hear()
		if line == "ok" {
			break
		}
		var inner int
		if _, err := fmt.Sscanf(line, "kill %d", &inner); err != nil {
			t.Fatal(line)
		}
		pid := findNested(t, cmd.Process.Pid, inner)
		w := watch(t, host, newKey(), pid)
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if e := await(t, w); e.Status != 9 || e.Pid != pid || e.Killer == nil || e.Killer.Pid != os.Getpid() {
			t.Errorf("%+v by %+v", e, e.Killer)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// findNested returns the pid, as we see it, of what the namespace of process
// daemon numbers inner.
func findNested(t *testing.T, daemon, inner int) int {
	t.Helper()
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", daemon))
	if err != nil {
		t.Fatal(err)
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		if other, err := os.Readlink(dir + "/ns/pid"); err != nil || other != ns {
			continue
		}
		b, _ := os.ReadFile(dir + "/status")
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "NSpid:" && f[len(f)-1] == strconv.Itoa(inner) {
				pid, _ := strconv.Atoi(filepath.Base(dir))
				return pid
			}
		}
	}
	t.Fatalf("no process %d in there", inner)
	return 0
}

func nestedDaemon() {
	must(0, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(0, unix.Mount("proc", "/proc", "proc", 0, ""))
	tr := must(Open(Options{Dir: os.Args[1], Require: true}))
	check := func(what string, ok bool, got any) {
		if !ok {
			must(0, fmt.Errorf("%s: %+v", what, got))
		}
	}
	start := func(script string) (int, *os.File) {
		r, w, err := os.Pipe()
		must(0, err)
		defer r.Close()
		p := must(os.StartProcess("/bin/sh", []string{"sh", "-c", script}, &os.ProcAttr{Files: []*os.File{r, os.Stdout, os.Stderr}}))
		pid := p.Pid
		must(0, p.Release())
		return pid, w
	}
	exit := func(pid int) Exit {
		w := must(tr.Watch(Key(pid), pid))
		<-w.Done()
		return must(w.Exit())
	}

	check("our pid", os.Getpid() == 1, os.Getpid())
	pid, in := start("read x; exit 3")
	w := must(tr.Watch(Key(pid), pid))
	must(fmt.Fprintln(in))
	<-w.Done()
	e := must(w.Exit())
	check("exit", pid < 1000 && e.Status == 3<<8 && e.Pid == pid && e.Source == SourceBPF, e)

	// An exec of ours, dead before it is watched, below a runc that lives.
	pid, in = start("(exit 8) & read x; exit 4")
	eventuallyDead := func(p int) {
		for {
			if s, err := readStat(p); err == nil && s.dead(p) {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
	must(fmt.Fprintln(in))
	eventuallyDead(pid)
	e = exit(pid)
	check("late", e.Status == 4<<8 && e.Source == SourceRecent, e)

	// Killed by one of us, by a number of our namespace.
	pid, _ = start("read x")
	w = must(tr.Watch(Key(pid), pid))
	must(0, unix.Kill(pid, unix.SIGTERM))
	<-w.Done()
	e = must(w.Exit())
	check("killer inside", e.Status == 15 && e.Killer != nil && e.Killer.Pid == 1, e.Killer)

	// Killed from outside, by somebody we cannot see.
	pid, _ = start("read x")
	w = must(tr.Watch(Key(pid), pid))
	fmt.Println("kill", pid)
	<-w.Done()
	e = must(w.Exit())
	check("killer outside", e.Status == 9 && e.Killer != nil && e.Killer.Pid == 0 && e.Killer.Comm != "" && !e.Killer.Kernel, e.Killer)

	s := tr.Stats()
	check("stats", s.Disagreed == 0 && s.Compared == 4, s)
	must(0, tr.Close())
	must(0, Cleanup(os.Args[1]))
	fmt.Println("ok")
	os.Exit(0)
}

// powerlessDaemon may do nothing special, and says what it misses.
func powerlessDaemon() {
	_, err := Open(Options{Dir: os.Args[1], Require: true})
	fmt.Println(strings.ReplaceAll(fmt.Sprint(err), "\n", " "))
	tr := must(Open(Options{Dir: os.Args[1]}))
	fmt.Println(tr.Mode())
	p := must(os.StartProcess("/bin/sh", []string{"sh", "-c", "exit 21"}, &os.ProcAttr{}))
	w := must(tr.Watch(1, p.Pid))
	<-w.Done()
	e := must(w.Exit())
	fmt.Println(e.Status.ExitStatus(), e.Source)
	os.Exit(0)
}

func TestPowerless(t *testing.T) {
	testenv.Require(t, testenv.Root)
	self, _ := os.Executable()
	dir := t.TempDir()
	for p := dir; p != "/tmp" && p != "/"; p = filepath.Dir(p) {
		_ = os.Chmod(p, 0o755)
	}
	for p := filepath.Dir(self); p != "/tmp" && p != "/"; p = filepath.Dir(p) {
		_ = os.Chmod(p, 0o755)
	}
	_, d := startDaemon(t, "powerless", dir, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 12345}})
	if s := d.hear(); !strings.Contains(s, "CAP_BPF") || !strings.Contains(s, "CAP_PERFMON") {
		t.Errorf("does not say what is missing: %s", s)
	}
	if s := d.hear(); !strings.HasPrefix(s, "degraded") || !strings.Contains(s, "CAP_BPF") {
		t.Errorf("does not say what is missing: %s", s)
	}
	if s := d.hear(); s != "21 wait" {
		t.Errorf("got %q", s)
	}
}
