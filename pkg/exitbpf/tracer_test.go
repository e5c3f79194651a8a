// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/testenv"
)

const patience = 20 * time.Second

// newDir returns a directory for a tracer, cleaned up with the test.
func newDir(t testing.TB) string {
	t.Helper()
	testenv.Require(t, testenv.Root, testenv.BPF)
	dir := filepath.Join(t.TempDir(), "bpf")
	t.Cleanup(func() {
		if err := Cleanup(dir); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", dir, err)
		}
	})
	return dir
}

func open(t testing.TB, o Options) *Tracer {
	t.Helper()
	tr, err := Open(o)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	})
	return tr
}

func openNew(t testing.TB) *Tracer {
	t.Helper()
	return open(t, Options{Dir: newDir(t), Require: true})
}

// parked starts a shell that waits for a line before it goes on with script.
func parked(t testing.TB, script string) (pid int, release func()) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", "read x; " + script}, &os.ProcAttr{Files: []*os.File{r, os.Stdout, os.Stderr}})
	if err != nil {
		t.Fatal(err)
	}
	pid = p.Pid
	t.Cleanup(func() { _ = w.Close() })
	if err := p.Release(); err != nil { // reaping is the tracer's
		t.Fatal(err)
	}
	return pid, func() {
		if _, err := w.WriteString("go\n"); err != nil {
			t.Error(err)
		}
	}
}

func newKey() Key { return Key(rand.Uint64()) }

func watch(t testing.TB, tr *Tracer, k Key, pid int) *Watch {
	t.Helper()
	w, err := tr.Watch(k, pid)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func await(t testing.TB, w *Watch) Exit {
	t.Helper()
	e, err := awaitErr(t, w)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func awaitErr(t testing.TB, w *Watch) (Exit, error) {
	t.Helper()
	select {
	case <-w.Done():
	case <-time.After(patience):
		b := make([]byte, 1<<20)
		t.Fatalf("no exit of %d heard\n%s", w.Pid(), b[:runtime.Stack(b, true)])
	}
	return w.Exit()
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func reaped(pid int) bool { return errors.Is(unix.Kill(pid, 0), unix.ESRCH) }

func TestWatchChild(t *testing.T) {
	tr := openNew(t)
	pid, release := parked(t, "exit 42")
	k := newKey()
	w := watch(t, tr, k, pid)
	if again := watch(t, tr, k, pid); again != w {
		t.Error("a second Watch of the same process is another one")
	}
	if _, err := w.Exit(); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Exit of a running process: %v", err)
	}
	if err := w.Signal(0); err != nil {
		t.Error(err)
	}
	before := time.Now()
	release()
	e := await(t, w)
	if e.Key != k || e.Pid != pid || e.Status != 42<<8 || e.Source != SourceBPF || e.OOM || e.Killer != nil {
		t.Errorf("%+v", e)
	}
	if d := e.At.Sub(before); d < -time.Millisecond || d > time.Second {
		t.Errorf("died %v after it was released", d)
	}
	if !reaped(pid) {
		t.Error("Done is closed, but the child has not been reaped")
	}
	if err := w.Signal(unix.SIGTERM); !errdefs.IsNotFound(err) {
		t.Errorf("signal to a dead process: %v", err)
	}
	if ks := tr.Keys(); len(ks) != 1 || ks[0] != k {
		t.Errorf("keys %v", ks)
	}
	for range 2 {
		if err := tr.Forget(k); err != nil {
			t.Error(err)
		}
	}
	if ks := tr.Keys(); len(ks) != 0 {
		t.Errorf("keys after Forget: %v", ks)
	}
	if _, err := tr.Watch(k, pid); !errors.Is(err, ErrGone) {
		t.Errorf("Watch of what is forgotten: %v", err)
	}
	if s := tr.Stats(); s.Exits[SourceBPF] != 1 || s.Compared != 1 || s.Disagreed != 0 || s.Kernel.Recorded != 1 {
		t.Errorf("%+v", s)
	}
}

func TestWatchSignalled(t *testing.T) {
	tr := openNew(t)
	pid, release := parked(t, "kill -TERM $$")
	w := watch(t, tr, newKey(), pid)
	release()
	e := await(t, w)
	if e.Status != unix.WaitStatus(unix.SIGTERM) {
		t.Errorf("%+v", e)
	}
	if k := e.Killer; k == nil || k.Kernel || k.Pid != pid || k.Comm != "sh" || k.Signal != unix.SIGTERM || k.CgroupID == 0 {
		t.Errorf("%+v", k)
	}
}

// An exec may be dead before anyone knows its pid.
func TestWatchTooLate(t *testing.T) {
	tr := openNew(t)
	pid, release := parked(t, "exit 7")
	release()
	eventually(t, "zombie", func() bool { s, err := readStat(pid); return err == nil && s.dead(pid) })
	before := time.Now()
	w := watch(t, tr, newKey(), pid)
	select {
	case <-w.Done():
	default:
		t.Fatal("not done at once")
	}
	e := await(t, w)
	if e.Status != 7<<8 || e.Source != SourceRecent || !e.At.Before(before) {
		t.Errorf("%+v", e)
	}
	if !reaped(pid) {
		t.Error("not reaped")
	}
}

func TestRestart(t *testing.T) {
	dir := newDir(t)
	first := open(t, Options{Dir: dir, Require: true})
	k, k2 := newKey(), newKey()
	pid, release := parked(t, "exit 3")
	pid2, release2 := parked(t, "exit 4")
	watch(t, first, k, pid)
	watch(t, first, k2, pid2)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	release()
	eventually(t, "zombie", func() bool { s, err := readStat(pid); return err == nil && s.dead(pid) })
	died := time.Now()

	recs, err := Records(dir) // between the two, and from outside
	if err != nil || len(recs) != 2 {
		t.Errorf("records %+v, %v", recs, err)
	}
	for _, r := range recs {
		if r.Err != nil || (r.Key == k) != (r.Exit != nil) || time.Since(r.Reserved) > time.Minute || r.Pid != pid && r.Pid != pid2 {
			t.Errorf("%+v", r)
		}
	}
	if _, err := Records(t.TempDir()); !errdefs.IsNotFound(err) {
		t.Error(err)
	}

	second := open(t, Options{Dir: dir, Require: true})
	if n := len(second.Keys()); n != 2 {
		t.Fatalf("%d keys", n)
	}
	w := watch(t, second, k, pid)
	e := await(t, w)
	if e.Status != 3<<8 || e.Source != SourceBPF || e.At.After(died) {
		t.Errorf("%+v", e)
	}
	w2 := watch(t, second, k2, pid2)
	release2()
	if e := await(t, w2); e.Status != 4<<8 || e.Source != SourceBPF {
		t.Errorf("%+v", e)
	}
	pins, err := listPins(filepath.Join(dir, layoutDir))
	if err != nil || len(pins) != 7 {
		t.Errorf("pins %v, %v", pins, err)
	}
}

func TestOpenTwice(t *testing.T) {
	dir := newDir(t)
	open(t, Options{Dir: dir, Require: true})
	if _, err := Open(Options{Dir: dir}); !errdefs.IsUnavailable(err) {
		t.Errorf("second Open: %v", err)
	}
	if err := Cleanup(dir); !errdefs.IsUnavailable(err) {
		t.Errorf("Cleanup in use: %v", err)
	}
	// Another directory is another tracer.
	other := openNew(t)
	pid, release := parked(t, "exit 1")
	w := watch(t, other, newKey(), pid)
	release()
	await(t, w)
}
