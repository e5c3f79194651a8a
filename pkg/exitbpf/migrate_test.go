// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// While hundreds of watched processes die, the tracer is closed and opened again
// and again, with another capacity each time, so that maps move and programs
// are replaced. Not one exit may slip through.
func TestExitsWhileReopening(t *testing.T) {
	dir := newDir(t)
	first := open(t, Options{Dir: dir, Require: true, Capacity: 1000})
	const rounds, batch = 10, 60
	var swarms []swarm
	var all []int
	for i := range rounds {
		s := newSwarm(t)
		swarms = append(swarms, s)
		for _, pid := range s.fork(batch, uint32(i+100), true) {
			watch(t, first, Key(pid), pid)
			all = append(all, pid)
		}
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	truths := map[int]truth{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, s := range swarms {
			s.die()
			for pid, truth := range s.wait() {
				truths[pid] = truth
			}
			time.Sleep(50 * time.Millisecond) // spreads the deaths over the loop below; nothing depends on it
		}
	}()
	var tr *Tracer
	opens := 0
	for running := true; running; opens++ {
		select {
		case <-done:
			running = false
		default:
		}
		var err error
		if tr, err = Open(Options{Dir: dir, Require: true, Capacity: 1000 + opens%3*100}); err != nil {
			t.Fatalf("%+v", err)
		}
		if n := len(tr.Keys()); n != len(all) {
			t.Errorf("%d records, want %d", n, len(all))
		}
		if running {
			if err := tr.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	defer tr.Close()
	for _, pid := range all {
		e, err := awaitErr(t, watch(t, tr, Key(pid), pid))
		if err != nil || e.Status != truths[pid].status || e.Source != SourceBPF {
			t.Errorf("process %d: %+v, %v; wait4 says %#x", pid, e, err, truths[pid].status)
		}
	}
	t.Logf("opened %d times", opens)
}

// link pinned names what an Open leaves.
func pinNames(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, layoutDir))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// A crash may come between any two steps of Open. Whatever it leaves, the next
// one heals, and a process that lives through all of it is recorded.
func TestHealing(t *testing.T) {
	remove := func(names ...string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			for _, n := range names {
				if err := os.Remove(filepath.Join(dir, layoutDir, n)); err != nil {
					t.Error(err)
				}
			}
		}
	}
	for name, crash := range map[string]func(*testing.T, string){
		"no links":        remove("exit_1", "signal_1", "victim_1"),
		"one link":        remove("exit_1"),
		"no side maps":    remove("recent_1", "ooms_1", "stats_1"),
		"old link beside": func(t *testing.T, dir string) { twice(t, dir, 1, "exit", "signal") },
		"empty new map": func(t *testing.T, dir string) {
			spec, err := loadExit()
			if err != nil {
				t.Fatal(err)
			}
			m, err := ebpf.NewMap(spec.Maps["watched"])
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			if err := m.Pin(pinPath(filepath.Join(dir, layoutDir), "watched", 2)); err != nil {
				t.Fatal(err)
			}
		},
		"strange files": func(t *testing.T, dir string) {
			if err := os.Mkdir(filepath.Join(dir, layoutDir, "something"), 0o700); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Remove(filepath.Join(dir, layoutDir, "something")) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			tr := open(t, Options{Dir: dir, Require: true})
			k := newKey()
			pid, release := parked(t, "exit 33")
			watch(t, tr, k, pid)
			if err := tr.Close(); err != nil {
				t.Fatal(err)
			}
			crash(t, dir)
			tr = open(t, Options{Dir: dir, Require: true})
			w := watch(t, tr, k, pid)
			release()
			if e := await(t, w); e.Status != 33<<8 || e.Source != SourceBPF {
				t.Errorf("%+v", e)
			}
			if pins, err := listPins(filepath.Join(dir, layoutDir)); err != nil || len(pins) != 7 {
				t.Errorf("pins %s", pinNames(t, dir))
			}
		})
	}
}

// twice pins further links to the programs of one generation, of an older one.
func twice(t *testing.T, dir string, gen int, names ...string) {
	t.Helper()
	for _, n := range names {
		l, err := link.LoadPinnedLink(pinPath(filepath.Join(dir, layoutDir), n, gen), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Unpin(); err != nil {
			t.Fatal(err)
		}
		for _, g := range []int{gen, gen - 1} { // the same link under two names
			l2, err := l.(interface{ Info() (*link.Info, error) }).Info()
			if err != nil {
				t.Fatal(err)
			}
			again, err := link.NewFromID(l2.ID)
			if err != nil {
				t.Fatal(err)
			}
			if err := again.Pin(pinPath(filepath.Join(dir, layoutDir), n, g)); err != nil {
				t.Fatal(err)
			}
			_ = again.Close()
		}
		_ = l.Close()
	}
}

// Records of an older layout are read by its own rule and moved; those of a
// newer one are left alone.
func TestOtherLayout(t *testing.T) {
	dir := newDir(t)
	open(t, Options{Dir: dir, Require: true}).Close()
	v0 := filepath.Join(dir, "v0")
	if err := os.Mkdir(v0, 0o700); err != nil {
		t.Fatal(err)
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 8, ValueSize: 16, MaxEntries: 10})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	pid, release := parked(t, "exit 5")
	st, err := readStat(pid)
	if err != nil {
		t.Fatal(err)
	}
	// key: start<<32|pid; value: key, state<<32|code
	raw := func(a, b uint64) []byte {
		return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, a), b)
	}
	alive, dead := newKey(), newKey()
	for k, v := range map[uint64][]byte{
		st.start<<32 | uint64(pid): raw(uint64(alive), stateArmed<<32),
		7<<32 | 999999:             raw(uint64(dead), stateExited<<32|77<<8),
	} {
		if err := m.Put(k, v); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Pin(pinPath(v0, "watched", 3)); err != nil {
		t.Fatal(err)
	}

	if _, err := Open(Options{Dir: dir, Require: true}); err == nil || !strings.Contains(err.Error(), "another version") {
		t.Errorf("unknown layout: %v", err)
	}
	if _, err := os.Stat(pinPath(v0, "watched", 3)); err != nil {
		t.Errorf("unknown layout was touched: %v", err)
	}

	known := layouts{layoutDir: nil, "v0": func(k, v []byte) (proc, slot, error) {
		if len(k) != 8 || len(v) != 16 {
			return proc{}, slot{}, errors.New("not v0")
		}
		id, b := binary.LittleEndian.Uint64(k), binary.LittleEndian.Uint64(v[8:])
		ns, err := pidNamespace()
		return proc{Pid: uint32(id), Pidns: ns, Start: id >> 32},
			slot{Key: binary.LittleEndian.Uint64(v), State: uint32(b >> 32), Code: int32(b)}, err
	}}
	tr := open(t, Options{Dir: dir, Require: true, layouts: known})
	if _, err := os.Stat(pinPath(v0, "watched", 3)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old map is still pinned: %v", err)
	}
	if e := await(t, watch(t, tr, dead, 999999)); e.Status != 77<<8 {
		t.Errorf("%+v", e)
	}
	w := watch(t, tr, alive, pid)
	release()
	if e := await(t, w); e.Status != 5<<8 || e.Source != SourceBPF {
		t.Errorf("%+v", e)
	}
}

// An exec's own children, and those of any watched process, are not kept.
func TestRecentIsOnlyOurs(t *testing.T) {
	tr := openNew(t)
	pid, release := parked(t, "/bin/true; /bin/true; (exit 3); /bin/true; exit 6")
	w := watch(t, tr, newKey(), pid)
	release()
	if e := await(t, w); e.Status != 6<<8 {
		t.Errorf("%+v", e)
	}
	if s := tr.Stats(); s.Kernel.Recent != 0 || s.Kernel.Recorded != 1 {
		t.Errorf("%+v", s)
	}
}

// Cleanup of nothing is nothing.
func TestCleanupAbsent(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	for _, d := range []string{dir, "/sys/fs/bpf/embedcri-test-absent"} {
		if err := Cleanup(d); err != nil {
			t.Errorf("%s: %v", d, err)
		}
	}
}

// The customary place: mounted if need be, and unmounted if it was us.
func TestSystemDir(t *testing.T) {
	newDir(t) // for its requirements
	if ok, err := isBPFFS(systemMount); err != nil {
		t.Skip(err)
	} else if source, _ := mountedFrom(systemMount); ok && source != mountSource {
		defer func() {
			if ok, err := isBPFFS(systemMount); !ok || err != nil {
				t.Errorf("%s was mounted by another and is no more (%v)", systemMount, err)
			}
		}()
	}
	var all sync.WaitGroup
	for i := range 4 { // daemons that come and go; those of other tests do, too
		all.Go(func() {
			for range 3 {
				dir := fmt.Sprintf("%s/embedcri-test-%d-%d", systemMount, os.Getpid(), i)
				tr, err := Open(Options{Dir: dir, Require: true})
				if err != nil {
					t.Error(err)
					return
				}
				if pins, _ := os.ReadDir(dir); len(pins) == 0 {
					t.Errorf("there is nothing in %s", dir)
				}
				if err := errors.Join(tr.Close(), Cleanup(dir)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	// The mount is there as long as anybody's directory is.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		left, err := os.ReadDir(systemMount)
		source, mountErr := mountedFrom(systemMount)
		if err := errors.Join(err, mountErr); err != nil {
			t.Fatal(err)
		}
		for _, e := range left {
			if strings.HasPrefix(e.Name(), fmt.Sprintf("embedcri-test-%d-", os.Getpid())) {
				t.Fatalf("%s is still there", e.Name()) // in a mount that was hidden beneath another
			}
		}
		if source != mountSource || len(left) > 2 { // the kernel's own two
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is still mounted and holds %v", systemMount, left)
		}
	}
}
