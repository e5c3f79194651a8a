// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestKillerTime: from the kill to the death it is as long on the wall as in the record, whatever the wall clock does meanwhile.
func TestKillerTime(t *testing.T) {
	for range 1000 {
		s := slot{State: stateExited, Code: int32(unix.SIGKILL), DiedAt: 5000, Kill: rawSender{Signal: int32(unix.SIGKILL), At: 4999}}
		e, err := s.exit(proc{Pid: 4}, clock{})
		if err != nil || e.Killer == nil {
			t.Fatalf("%+v, %v", e, err)
		}
		if d := e.At.Sub(e.Killer.At); d != 1 {
			t.Fatalf("killed %v before its death, which came 1 ns later", d)
		}
	}
}

func TestKilledByStranger(t *testing.T) {
	tr := openNew(t)
	for _, sig := range []unix.Signal{unix.SIGKILL, unix.SIGTERM, unix.SIGUSR1, unix.SIGQUIT, 35, 64} {
		p := startCase(t, nil, "waits")
		w := watch(t, tr, newKey(), p.pid)
		p.say("")
		kill := exec.Command("/bin/kill", "-"+strconv.Itoa(int(sig)), strconv.Itoa(p.pid))
		kill.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 0, Gid: 12}}
		before := time.Now()
		if out, err := kill.CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		e := await(t, w)
		k := e.Killer
		if e.Status.Signal() != sig || k == nil || k.Kernel || k.Pid != kill.Process.Pid || k.Comm != "kill" || k.UID != 0 || k.Signal != sig {
			t.Fatalf("%v: %+v by %+v", sig, e, k)
		}
		if k.At.Before(before.Add(-time.Millisecond)) || k.At.After(e.At) {
			t.Errorf("%v: killed %v, died %v", sig, k.At, e.At)
		}
		if k.CgroupID != ownCgroup(t) {
			t.Errorf("cgroup %d, ours is %d", k.CgroupID, ownCgroup(t))
		}
	}
}

// A sender's uid is what the host knows it by, whatever its namespace says.
func TestKilledByUser(t *testing.T) {
	tr := openNew(t)
	cred := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 12345}}
	p := talk(t, &os.ProcAttr{Dir: "/", Sys: cred}, "/bin/sleep", "1000")
	w := watch(t, tr, newKey(), p.pid)
	kill := exec.Command("/bin/sh", "-c", fmt.Sprintf("kill -TERM %d", p.pid))
	kill.SysProcAttr = cred
	if err := kill.Run(); err != nil {
		t.Fatal(err)
	}
	if e := await(t, w); e.Killer == nil || e.Killer.UID != 12345 || e.Killer.Comm != "sh" {
		t.Errorf("%+v by %+v", e, e.Killer)
	}
}

// What did not kill is not the killer.
func TestSurvivedSignals(t *testing.T) {
	tr := openNew(t)
	p := startCase(t, nil, "second_term")
	w := watch(t, tr, newKey(), p.pid)
	p.say("")
	p.hear()
	if out, err := exec.Command("/bin/kill", "-TERM", strconv.Itoa(p.pid)).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	p.hear()
	if err := w.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if e := await(t, w); e.Status != 15 || e.Killer == nil || e.Killer.Pid != os.Getpid() {
		t.Errorf("%+v by %+v", e, e.Killer)
	}

	// A SIGKILL to what is dying already changes nothing.
	p = startCase(t, nil, "waits")
	w = watch(t, tr, newKey(), p.pid)
	for range 3 {
		_ = w.Signal(unix.SIGKILL)
	}
	if e := await(t, w); e.Status != 9 || e.Killer == nil || e.Killer.Pid != os.Getpid() || e.OOM {
		t.Errorf("%+v by %+v", e, e.Killer)
	}
}

func TestKilledByKernel(t *testing.T) {
	tr := openNew(t)
	for name, sig := range map[string]unix.Signal{"segv": unix.SIGSEGV, "sigpipe": unix.SIGPIPE, "alarms": unix.SIGALRM} {
		p := startCase(t, nil, name)
		w := watch(t, tr, newKey(), p.pid)
		p.say("")
		e := await(t, w)
		if e.Status.Signal() != sig || e.Killer == nil || !e.Killer.Kernel || e.OOM {
			t.Errorf("%s: %+v by %+v", name, e, e.Killer)
		}
	}
}

// The end of a pid namespace's first process ends the others: by the kernel.
func TestKilledByNamespace(t *testing.T) {
	tr := openNew(t)
	p := talk(t, &os.ProcAttr{Dir: "/", Sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}},
		"/bin/sh", "-c", "sleep 1000 & read x; exit 3")
	var child int
	eventually(t, "child", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.pid, p.pid))
		if err != nil {
			t.Skip(err)
		}
		_, err = fmt.Sscan(string(b), &child)
		return err == nil
	})
	w, wc := watch(t, tr, newKey(), p.pid), watch(t, tr, newKey(), child)
	p.say("")
	if e := await(t, wc); e.Status != 9 || e.Killer == nil || !e.Killer.Kernel || e.OOM {
		t.Errorf("%+v by %+v", e, e.Killer)
	}
	if e := await(t, w); e.Status != 3<<8 {
		t.Errorf("%+v", e)
	}
}

// memoryCgroup makes a cgroup of 32 MiB and returns its directory.
func memoryCgroup(t *testing.T) string {
	t.Helper()
	name := fmt.Sprintf("embedcri-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	var dir string
	limits := map[string]string{}
	if _, err := os.Stat("/sys/fs/cgroup/memory/memory.limit_in_bytes"); err == nil {
		dir = filepath.Join("/sys/fs/cgroup/memory", name)
		limits = map[string]string{"memory.limit_in_bytes": "33554432"}
	} else if b, err := os.ReadFile("/sys/fs/cgroup/cgroup.subtree_control"); err == nil && len(b) > 0 {
		dir = filepath.Join("/sys/fs/cgroup", name)
		limits = map[string]string{"memory.max": "33554432", "memory.swap.max": "0"}
	} else {
		t.Skip("no memory controller")
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { eventually(t, "cgroup removed", func() bool { return os.Remove(dir) == nil }) })
	for f, v := range limits {
		if err := os.WriteFile(filepath.Join(dir, f), []byte(v), 0o644); err != nil {
			t.Log(err)
		}
	}
	return dir
}

func join(t *testing.T, dir string, pid int) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
		t.Fatal(err)
	}
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// ownCgroup is the id that a Sender in our cgroup should have.
func ownCgroup(t *testing.T) uint64 {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup/memory", "/sys/fs/cgroup"} {
		procs, err := os.ReadFile(filepath.Join(root, "cgroup.procs"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		b, err := os.ReadFile("/proc/self/cgroup")
		if err != nil {
			t.Fatal(err)
		}
		_ = procs
		for _, line := range splitLines(b) {
			if root == "/sys/fs/cgroup/memory" && line.controllers == "memory" || root == "/sys/fs/cgroup" && line.controllers == "" {
				return inode(t, filepath.Join(root, line.path))
			}
		}
	}
	t.Skip("no cgroups")
	return 0
}

func TestOOM(t *testing.T) {
	tr := openNew(t)
	t.Run("itself", func(t *testing.T) {
		dir := memoryCgroup(t)
		p := startCase(t, nil, "eats")
		w := watch(t, tr, newKey(), p.pid)
		join(t, dir, p.pid)
		p.say("")
		e := await(t, w)
		if e.Status != 9 || !e.OOM || e.Killer == nil || !e.Killer.Kernel || e.CgroupID != inode(t, dir) {
			t.Errorf("%+v by %+v; cgroup is %d", e, e.Killer, inode(t, dir))
		}
		if o, err := tr.OOMKills(inode(t, dir)); err != nil || o.Kills != 1 || o.Pid != p.pid || o.Comm != "cases" {
			t.Errorf("%+v, %v", o, err)
		}
	})
	t.Run("child", func(t *testing.T) {
		dir := memoryCgroup(t)
		sub := filepath.Join(dir, "sub")
		if err := os.Mkdir(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { eventually(t, "cgroup removed", func() bool { return os.Remove(sub) == nil }) })
		// Counts are those of the cgroup and all above it, as far as the
		// hierarchy goes (v1 without use_hierarchy has none).
		p := startCase(t, nil, "child_eats")
		w := watch(t, tr, newKey(), p.pid)
		join(t, sub, p.pid)
		p.say("")
		if e := await(t, w); e.Status != 6<<8 || e.OOM || e.Killer != nil {
			t.Errorf("%+v by %+v", e, e.Killer)
		}
		for _, d := range []string{dir, sub} {
			if o, err := tr.OOMKills(inode(t, d)); err != nil || o.Kills != 1 || o.Comm != "cases" || time.Since(o.Last) > time.Minute {
				t.Errorf("%s: %+v, %v", d, o, err)
			}
		}
	})
	t.Run("not", func(t *testing.T) {
		dir := memoryCgroup(t)
		p := startCase(t, nil, "waits")
		w := watch(t, tr, newKey(), p.pid)
		join(t, dir, p.pid)
		p.say("")
		if err := w.Signal(unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if e := await(t, w); e.OOM || e.Killer == nil || e.Killer.Kernel {
			t.Errorf("%+v by %+v", e, e.Killer)
		}
		if o, err := tr.OOMKills(inode(t, dir)); err != nil || o.Kills != 0 {
			t.Errorf("%+v, %v", o, err)
		}
	})
}
