// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// startCase starts a process of testdata/cases.c that waits for a line.
func startCase(t *testing.T, attr *os.ProcAttr, name ...string) *talker {
	t.Helper()
	if attr == nil {
		attr = &os.ProcAttr{Dir: t.TempDir()}
	}
	return talk(t, attr, append([]string{program(t, "cases")}, name...)...)
}

// finish waits for the exit, and that both waitid and BPF have told it, alike.
func finish(t *testing.T, tr *Tracer, w *Watch) Exit {
	t.Helper()
	e := await(t, w)
	eventually(t, "second opinion", func() bool { return tr.Stats().Compared > 0 })
	if s := tr.Stats(); s.Disagreed != 0 || e.Source != SourceBPF {
		t.Errorf("%+v, %+v", e, s)
	}
	if !reaped(w.Pid()) {
		t.Error("not reaped")
	}
	return e
}

func running(t *testing.T, w *Watch) {
	t.Helper()
	select {
	case <-w.Done():
		t.Fatal("done while the process lives")
	default:
	}
}

func isZombie(pid int) func() bool {
	return func() bool { s, err := readStat(pid); return err == nil && s.state == 'Z' }
}

func TestSpecialDeaths(t *testing.T) {
	core := unix.WaitStatus(unix.SIGABRT)
	for _, c := range []struct {
		name string
		want unix.WaitStatus
		any  bool // whatever waitid says: BPF says the same
	}{
		{name: "vforks", want: 5 << 8},
		{name: "hundred", any: true},
		{name: "core", want: core, any: true}, // the core flag is the system's choice
		{name: "segv", want: unix.WaitStatus(unix.SIGSEGV)},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := openNew(t)
			p := startCase(t, nil, c.name)
			w := watch(t, tr, newKey(), p.pid)
			p.say("")
			e := finish(t, tr, w)
			if !c.any && e.Status&^0x80 != c.want {
				t.Errorf("%#x, want %#x", e.Status, c.want)
			}
			if c.name == "core" && e.Status.Signal() != unix.SIGABRT {
				t.Errorf("%#x", e.Status)
			}
			t.Logf("%#x", e.Status)
		})
	}
}

// core_pattern may be a name in the working directory: then there is a core, and
// the flag is set, or a pipe, whose program decides.
func TestCoreFlag(t *testing.T) {
	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil || strings.ContainsAny(string(pattern), "|/@") || len(strings.TrimSpace(string(pattern))) == 0 {
		t.Skipf("core_pattern %q, %v", pattern, err)
	}
	tr := openNew(t)
	p := startCase(t, nil, "core")
	w := watch(t, tr, newKey(), p.pid)
	p.say("")
	if e := finish(t, tr, w); !e.Status.CoreDump() || e.Status.Signal() != unix.SIGABRT {
		t.Errorf("%#x", e.Status)
	}
}

func TestLeaderLeavesFirst(t *testing.T) {
	for name, want := range map[string]unix.WaitStatus{"leader_first": 23 << 8, "last_thread": 0} {
		t.Run(name, func(t *testing.T) {
			tr := openNew(t)
			p := startCase(t, nil, name)
			w := watch(t, tr, newKey(), p.pid)
			p.say("")
			eventually(t, "leader gone", isZombie(p.pid))
			running(t, w)
			if st, _ := readStat(p.pid); st.dead(p.pid) {
				t.Error("taken for dead")
			}
			// Nor is it when somebody looks anew.
			w.mu.Lock()
			o := tr.observeLocked(w)
			w.mu.Unlock()
			if o.dead {
				t.Errorf("%+v", o)
			}
			p.say("")
			if e := finish(t, tr, w); e.Status != want {
				t.Errorf("%#x, want %#x", e.Status, want)
			}
		})
	}
}

func TestNonLeaderExec(t *testing.T) {
	tr := openNew(t)
	p := startCase(t, nil, "thread_exec")
	w := watch(t, tr, newKey(), p.pid)
	p.say("")
	eventually(t, "execve", func() bool {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/comm")
		return err == nil && string(b) == "sh\n"
	})
	running(t, w)
	p.say("")
	if e := finish(t, tr, w); e.Status != 31<<8 {
		t.Errorf("%#x", e.Status)
	}
}

// A ptracer that is not the parent sees the corpse first: the exit is known at
// once, the reaping has to wait.
func TestTraced(t *testing.T) {
	tr := openNew(t)
	p := startCase(t, nil, "waits")
	w := watch(t, tr, newKey(), p.pid)
	p.say("")
	s := startCase(t, nil, "tracer", strconv.Itoa(p.pid))
	defer func() { _ = unix.Kill(s.pid, unix.SIGKILL); _, _ = unix.Wait4(s.pid, nil, 0, nil) }()
	if s.hear() != "seized" {
		t.Fatal("cannot trace")
	}
	if err := w.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := s.hear(); got != "released" {
		t.Fatal(got)
	}
	if e := await(t, w); e.Status != 9 || e.Killer == nil || e.Killer.Pid != os.Getpid() {
		t.Errorf("%+v", e)
	}
	if reaped(p.pid) {
		t.Error("reaped under its tracer's eyes")
	}
	if err := tr.Forget(w.Key()); err != nil { // still reaped later
		t.Error(err)
	}
	s.say("")
	s.say("")
	eventually(t, "reaped", func() bool { return reaped(p.pid) })
}

func TestNamespaces(t *testing.T) {
	for name, flags := range map[string]uintptr{"pid": unix.CLONE_NEWPID, "user": unix.CLONE_NEWUSER, "both": unix.CLONE_NEWPID | unix.CLONE_NEWUSER} {
		t.Run(name, func(t *testing.T) {
			tr := openNew(t)
			ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 1000}}
			sys := &syscall.SysProcAttr{Cloneflags: flags}
			if flags&unix.CLONE_NEWUSER != 0 {
				sys.UidMappings, sys.GidMappings = ids, ids
			}
			attr := func() *os.ProcAttr { return &os.ProcAttr{Dir: "/", Sys: sys} }
			run := func(args ...string) *talker { return talk(t, attr(), args...) }

			p := run("/bin/sh", "-c", "read x; exit 9")
			w := watch(t, tr, newKey(), p.pid)
			p.say("")
			if e := finish(t, tr, w); e.Status != 9<<8 {
				t.Errorf("%+v", e)
			}
			p = run("/bin/sh", "-c", "read x")
			w = watch(t, tr, newKey(), p.pid)
			if err := w.Signal(unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if e := finish(t, tr, w); e.Status != 9 || e.Killer == nil || e.Killer.Pid != os.Getpid() || e.Killer.UID != 0 {
				t.Errorf("%+v %+v", e, e.Killer)
			}
		})
	}
}

// A daemon that left its parents ends up with us, the subreaper.
func TestSetsidDaemon(t *testing.T) {
	tr := openNew(t)
	p := startCase(t, nil, "daemonizes")
	pid, err := strconv.Atoi(p.hear())
	if err != nil {
		t.Fatal(err)
	}
	w := watch(t, tr, newKey(), pid)
	p.say("")
	if e := finish(t, tr, w); e.Status != 17<<8 {
		t.Errorf("%+v", e)
	}
	// The two that forked and left.
	eventually(t, "parents reaped", func() bool {
		_, err := unix.Wait4(p.pid, nil, unix.WNOHANG, nil)
		return errors.Is(err, unix.ECHILD)
	})
}

// The time of death lies between the process' last words and what came after.
func TestTimeOfDeath(t *testing.T) {
	tr := openNew(t)
	s := newSwarm(t)
	var off int
	const n = 50
	for i := range n {
		pid := s.fork(1, uint32(8*i+7), true)[0]
		w := watch(t, tr, newKey(), pid)
		s.die()
		e := await(t, w)
		heard := time.Now()
		before := time.Unix(0, s.wait()[pid].at)
		if e.At.Before(before.Add(-time.Millisecond)) || e.At.After(heard.Add(time.Millisecond)) {
			t.Errorf("died %v, but its last words are of %v and it was heard of %v", e.At, before, heard)
		}
		if e.At.Sub(before) > 5*time.Millisecond {
			off++
		}
	}
	if off > n/10 { // one that lost its CPU just then is not our error
		t.Errorf("%d of %d are more than 5 ms late", off, n)
	}
}
