// SPDX-License-Identifier: Apache-2.0

package exitbpftest

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/pkg/exitbpf"
)

// Tracer is what *exitbpf.Tracer and *Fake have in common.
type Tracer interface {
	Watch(k exitbpf.Key, pid int) (*exitbpf.Watch, error)
	Forget(k exitbpf.Key) error
	Keys() []exitbpf.Key
	Mode() exitbpf.Mode
	OOMKills(cgroupID uint64) (exitbpf.OOMs, error)
	Close() error
}

// World is a tracer and the processes it may watch.
type World interface {
	// Tracer returns the present daemon's tracer.
	Tracer() Tracer
	// Restart closes it and returns that of the next daemon.
	Restart() Tracer
	// Start makes a process; end lets it exit with a code.
	Start() (pid int, end func(code int))
	// Lives says whether records live through Restart.
	Lives() bool
}

const patience = 20 * time.Second

// Conformance checks that a tracer with room for capacity records keeps the
// promises of package exitbpf.
func Conformance(t *testing.T, capacity int, newWorld func(t *testing.T) World) {
	for name, f := range map[string]func(*testing.T, World, int){
		"exit": exits, "idempotent": idempotent, "late": late, "gone": gone, "signal": signals, "forget": forgets,
		"full": full, "conflict": conflicts, "restart": restarts, "close": closes,
	} {
		t.Run(name, func(t *testing.T) { f(t, newWorld(t), capacity) })
	}
}

func key() exitbpf.Key { return exitbpf.Key(rand.Uint64()) }

func await(t *testing.T, w *exitbpf.Watch) (exitbpf.Exit, error) {
	t.Helper()
	select {
	case <-w.Done():
	case <-time.After(patience):
		t.Fatalf("no exit of process %d heard", w.Pid())
	}
	return w.Exit()
}

func mustWatch(t *testing.T, tr Tracer, k exitbpf.Key, pid int) *exitbpf.Watch {
	t.Helper()
	w, err := tr.Watch(k, pid)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func want(t *testing.T, w *exitbpf.Watch, code int) {
	t.Helper()
	e, err := await(t, w)
	if err != nil || !e.Status.Exited() || e.Status.ExitStatus() != code || e.Key != w.Key() || e.Pid != w.Pid() {
		t.Errorf("exit %+v, %v; want code %d of process %d", e, err, code, w.Pid())
	}
	if since := time.Since(e.At); since < -time.Second || since > time.Hour {
		t.Errorf("time of death %v", e.At)
	}
}

func exits(t *testing.T, world World, _ int) {
	for _, code := range []int{0, 1, 127, 128, 137, 255} {
		pid, end := world.Start()
		w := mustWatch(t, world.Tracer(), key(), pid)
		if _, err := w.Exit(); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("exit of a running process: %v", err)
		}
		end(code)
		want(t, w, code)
	}
}

func idempotent(t *testing.T, world World, _ int) {
	pid, end := world.Start()
	k := key()
	w := mustWatch(t, world.Tracer(), k, pid)
	if again := mustWatch(t, world.Tracer(), k, pid); again != w {
		t.Error("not the same watch")
	}
	end(4)
	want(t, w, 4)
	want(t, mustWatch(t, world.Tracer(), k, pid), 4)
}

func late(t *testing.T, world World, _ int) {
	pid, end := world.Start()
	end(7)
	want(t, mustWatch(t, world.Tracer(), key(), pid), 7)
}

func gone(t *testing.T, world World, _ int) {
	pid, end := world.Start()
	k := key()
	w := mustWatch(t, world.Tracer(), k, pid)
	end(1)
	want(t, w, 1)
	if err := world.Tracer().Forget(k); err != nil {
		t.Error(err)
	}
	if _, err := world.Tracer().Watch(key(), pid); !errors.Is(err, exitbpf.ErrGone) || !errdefs.IsNotFound(err) {
		t.Errorf("watch of a process that is gone: %v", err)
	}
	if _, err := world.Tracer().Watch(key(), 0); !errdefs.IsInvalidArgument(err) {
		t.Errorf("watch of pid 0: %v", err)
	}
}

func signals(t *testing.T, world World, _ int) {
	pid, _ := world.Start()
	w := mustWatch(t, world.Tracer(), key(), pid)
	if err := w.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	e, err := await(t, w)
	if err != nil || !e.Status.Signaled() || e.Status.Signal() != unix.SIGKILL || e.OOM {
		t.Errorf("%+v, %v", e, err)
	}
	if world.Tracer().Mode().BPF && (e.Killer == nil || e.Killer.Signal != unix.SIGKILL || e.Killer.Kernel) {
		t.Errorf("killer %+v", e.Killer)
	}
	if err := w.Signal(unix.SIGKILL); !errdefs.IsNotFound(err) {
		t.Errorf("signal to a dead process: %v", err)
	}
}

func forgets(t *testing.T, world World, _ int) {
	tr := world.Tracer()
	if err := tr.Forget(key()); err != nil {
		t.Errorf("forget what is not known: %v", err)
	}
	pid, end := world.Start()
	k := key()
	w := mustWatch(t, tr, k, pid)
	if ks := tr.Keys(); !slices.Equal(ks, []exitbpf.Key{k}) {
		t.Errorf("keys %v", ks)
	}
	if err := tr.Forget(k); err != nil {
		t.Error(err)
	}
	if _, err := await(t, w); !errors.Is(err, exitbpf.ErrForgotten) {
		t.Errorf("exit of what was forgotten: %v", err)
	}
	if ks := tr.Keys(); len(ks) != 0 {
		t.Errorf("keys %v", ks)
	}
	// It lives on and may be watched anew.
	k = key()
	w = mustWatch(t, tr, k, pid)
	end(2)
	want(t, w, 2)
}

func full(t *testing.T, world World, capacity int) {
	tr := world.Tracer()
	var ws []*exitbpf.Watch
	var ends []func(int)
	for range capacity {
		pid, end := world.Start()
		ws, ends = append(ws, mustWatch(t, tr, key(), pid)), append(ends, end)
	}
	pid, end := world.Start()
	defer end(0)
	if _, err := tr.Watch(key(), pid); !errors.Is(err, exitbpf.ErrFull) || !errdefs.IsResourceExhausted(err) {
		t.Errorf("one too many: %v", err)
	}
	ends[0](9)
	want(t, ws[0], 9)
	if _, err := tr.Watch(key(), pid); !errors.Is(err, exitbpf.ErrFull) {
		t.Errorf("an exit frees nothing before it is forgotten: %v", err)
	}
	if err := tr.Forget(ws[0].Key()); err != nil {
		t.Error(err)
	}
	mustWatch(t, tr, key(), pid)
	for i := range ws[1:] {
		ends[i+1](i)
		want(t, ws[i+1], i)
	}
}

func conflicts(t *testing.T, world World, _ int) {
	tr := world.Tracer()
	a, endA := world.Start()
	b, endB := world.Start()
	defer endB(0)
	k := key()
	w := mustWatch(t, tr, k, a)
	if _, err := tr.Watch(k, b); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second process for a key: %v", err)
	}
	if _, err := tr.Watch(key(), a); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second key for a process: %v", err)
	}
	endA(3)
	want(t, w, 3)
}

func restarts(t *testing.T, world World, _ int) {
	if !world.Lives() {
		t.Skip("records do not outlive this tracer")
	}
	type one struct {
		k   exitbpf.Key
		pid int
		end func(int)
	}
	var before, after one
	for _, o := range []*one{&before, &after} {
		o.k = key()
		o.pid, o.end = world.Start()
		mustWatch(t, world.Tracer(), o.k, o.pid)
	}
	before.end(11)
	tr := world.Restart()
	if n := len(tr.Keys()); n != 2 {
		t.Errorf("%d keys", n)
	}
	want(t, mustWatch(t, tr, before.k, before.pid), 11)
	w := mustWatch(t, tr, after.k, after.pid)
	after.end(12)
	want(t, w, 12)
}

func closes(t *testing.T, world World, _ int) {
	tr := world.Tracer()
	pid, end := world.Start()
	k := key()
	w := mustWatch(t, tr, k, pid)
	for range 2 {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	}
	end(0)
	select {
	case <-w.Done():
		t.Error("Close says nothing about the process, but Done is closed")
	case <-time.After(20 * time.Millisecond):
	}
	if _, err := tr.Watch(key(), pid); !errors.Is(err, exitbpf.ErrClosed) {
		t.Errorf("watch after close: %v", err)
	}
	if err := tr.Forget(k); !errors.Is(err, exitbpf.ErrClosed) {
		t.Errorf("forget after close: %v", err)
	}
}
