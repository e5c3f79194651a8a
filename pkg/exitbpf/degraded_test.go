// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/pidfd"
)

// What the verifier says about a program reaches whoever asks.
func TestVerifierLog(t *testing.T) {
	dir := newDir(t)
	bad := func() (*ebpf.CollectionSpec, error) {
		spec, err := loadExit()
		if err == nil {
			spec.Programs["on_exit"].Instructions = asm.Instructions{asm.Mov.Reg(asm.R0, asm.R7), asm.Return()}
		}
		return spec, err
	}
	_, err := Open(Options{Dir: dir, Require: true, object: bad})
	var v *ebpf.VerifierError
	if !errors.As(err, &v) || !strings.Contains(fmt.Sprintf("%+v", err), "R7 !read_ok") {
		t.Fatalf("%+v", err)
	}
	tr := open(t, Options{Dir: dir, object: bad})
	if m := tr.Mode(); m.BPF || !strings.Contains(m.String(), "on_exit") || !errors.As(m.Err, &v) {
		t.Errorf("%v", m)
	}
	if _, err := tr.OOMKills(1); !errdefs.IsUnavailable(err) {
		t.Errorf("OOM kills that nobody counts: %v", err)
	}
	if pins, _ := listPins(filepath.Join(dir, layoutDir)); len(pins) != 0 {
		t.Errorf("left behind: %v", pins)
	}
}

// A failed Open leaves what was there as it was: the earlier programs go on.
func TestFailedOpenChangesNothing(t *testing.T) {
	dir := newDir(t)
	tr, err := Open(Options{Dir: dir, Require: true, Capacity: 4})
	if err != nil {
		t.Fatal(err)
	}
	k := newKey()
	pid, release := parked(t, "exit 19")
	watch(t, tr, k, pid)
	k2 := newKey()
	pid2, _ := parked(t, "exit 20")
	watch(t, tr, k2, pid2)
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	before, _ := listPins(filepath.Join(dir, layoutDir))
	if _, err := Open(Options{Dir: dir, Capacity: 1}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("capacity below what is in use: %v", err)
	}
	if _, err := Open(Options{Dir: dir, Require: true, object: func() (*ebpf.CollectionSpec, error) { return nil, errNoBPF }}); !errors.Is(err, errNoBPF) {
		t.Error(err)
	}
	if after, _ := listPins(filepath.Join(dir, layoutDir)); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("before %v, after %v", before, after)
	}
	release()
	tr = open(t, Options{Dir: dir, Require: true, Capacity: 4})
	if e := await(t, watch(t, tr, k, pid)); e.Status != 19<<8 || e.Source != SourceBPF {
		t.Errorf("%+v", e)
	}
	if err := watch(t, tr, k2, pid2).Signal(unix.SIGKILL); err != nil {
		t.Error(err)
	}
}

// Without BPF and without being the parent there are still two sources, and
// where they are silent too the exit is lost, not invented.
func TestDegradedSources(t *testing.T) {
	tr := open(t, Options{Dir: newDir(t), object: func() (*ebpf.CollectionSpec, error) { return nil, errNoBPF }})

	s := newSwarm(t) // the parent; leaves corpses until told to wait
	for _, pid := range s.fork(40, 3, true) {
		watch(t, tr, Key(pid), pid)
	}
	s.die()
	type told struct {
		e   Exit
		err error
	}
	got := map[int]told{}
	for _, k := range tr.Keys() {
		w := watch(t, tr, k, int(k))
		e, err := awaitErr(t, w)
		got[w.Pid()] = told{e, err}
	}
	for pid, truth := range s.wait() {
		if g := got[pid]; g.err != nil || g.e.Status != truth.status || g.e.Source != SourceStat {
			t.Errorf("corpse %d: %+v, %v; wait4 says %#x", pid, g.e, g.err, truth.status)
		}
	}

	// Reaped before we look: only the pidfd can know, if the kernel does.
	pid := s.fork(1, 5<<8, true)[0]
	w := &Watch{key: 1, pid: pid, done: make(chan struct{}), fd: -1}
	w.mu.Lock()
	p, err := tr.openPidfdLocked(w)
	if err != nil {
		t.Fatal(err)
	}
	w.proc = p
	w.mu.Unlock()
	s.die()
	truth := s.wait()[pid]
	eventually(t, "gone", func() bool { return errors.Is(pidfd.Signal(w.fd, 0), unix.ESRCH) })
	o := tr.observeLocked(w)
	e, err := o.slot.exit(p, tr.clock)
	switch {
	case !o.dead:
		t.Error("taken for alive")
	case tr.Mode().ExitInfo && (err != nil || e.Status != truth.status || e.Source != SourcePidfd):
		t.Errorf("%+v, %v; wait4 says %#x", e, err, truth.status)
	case !tr.Mode().ExitInfo && !errors.Is(err, ErrLost):
		t.Errorf("%+v, %v", e, err)
	}
	_ = unix.Close(w.fd)
}

// A slot whose process is gone and left nothing: the attached programs were not
// there, or the machine was restarted. Lost, and said so.
func TestLost(t *testing.T) {
	dir := newDir(t)
	tr := open(t, Options{Dir: dir, Require: true})
	k := newKey()
	// As if pid reuse: a slot of a process with our number and another start.
	p := proc{Pid: uint32(os.Getpid()), Pidns: tr.pidns, Start: 1}
	if err := tr.recs.reserve(p, slot{Key: uint64(k), State: stateArmed}); err != nil {
		t.Fatal(err)
	}
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	tr = open(t, Options{Dir: dir, Require: true})
	w := watch(t, tr, k, os.Getpid())
	if e, err := awaitErr(t, w); !errors.Is(err, ErrLost) || !errdefs.IsDataLoss(err) {
		t.Errorf("%+v, %v", e, err)
	}
	if err := w.Signal(unix.SIGKILL); !errdefs.IsNotFound(err) { // else this test would not get far
		t.Errorf("signal: %v", err)
	}
	if s := tr.Stats(); s.Exits[SourceNone] != 1 {
		t.Errorf("%+v", s)
	}
}
