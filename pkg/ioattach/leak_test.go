// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
)

func openFDs(t testing.TB) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}

// statusKiB is a field of /proc/self/status.
func statusKiB(t testing.TB, field string) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(l, field+":"); ok {
			var n int
			if _, err := fmt.Sscan(rest, &n); err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no ", field)
	return 0
}

// TestNothingLeaks runs many containers and execs through their whole life.
func TestNothingLeaks(t *testing.T) {
	root := shortDir(t)
	k, err := OpenKeeper(t.Context(), testKeeper(root))
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, HubOptions{Keeper: k})
	life := func(i int) {
		o := Options{Stdin: true, StdinOnce: i%2 == 0, Exec: i%3 == 0}
		if !o.Exec {
			o.LogPath = n.log("c")
		}
		st, err := n.hub.Create(n.dir(fmt.Sprint("c", i)), o)
		if err != nil {
			t.Fatal(err)
		}
		pr, pw := io.Pipe()
		var out sink
		done := attach(t, t.Context(), st, Client{Stdin: pr, Stdout: &out, Stderr: &sink{}})
		cmd := start(t, st, "echo x")
		drain(t, st, cmd)
		if err := result(t, done); err != nil {
			t.Error(err)
		}
		_ = pw.Close()
		if err := st.Remove(); err != nil {
			t.Error(err)
		}
	}
	for i := range 5 {
		life(i)
	}
	fds, routines := openFDs(t), runtime.NumGoroutine()
	for i := range 100 {
		life(i)
	}
	await(t, func() bool { return openFDs(t) <= fds && runtime.NumGoroutine() <= routines })
	await(t, func() bool {
		names, err := k.Names()
		return err == nil && len(names) == cap(n.hub.lanes)
	})
	if len(n.hub.held) != cap(n.hub.lanes) || len(n.hub.sources) != 0 || len(n.hub.lanes) != cap(n.hub.lanes) {
		t.Errorf("held %d, sources %d, free lanes %d", len(n.hub.held), len(n.hub.sources), len(n.hub.lanes))
	}
	t.Cleanup(func() { _ = k.Close() })
}

// TestIdleMemory is what 500 containers that have said one thing cost while they are silent.
func TestIdleMemory(t *testing.T) {
	n := newNode(t, HubOptions{})
	const containers = 500
	settleMemory()
	before, routines := statusKiB(t, "VmRSS"), runtime.NumGoroutine()
	var ends []*os.File
	for i := range containers {
		st := n.create(fmt.Sprint("c", i), Options{Stdin: true})
		stdio, err := st.Stdio()
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, dupFile(t, stdio.Stdout), dupFile(t, stdio.Stderr))
		if err := st.Started(); err != nil {
			t.Fatal(err)
		}
		for _, f := range ends[2*i:] {
			if _, err := io.WriteString(f, "hello\n"); err != nil {
				t.Fatal(err)
			}
		}
	}
	await(t, func() bool {
		b, err := os.ReadFile(n.log(fmt.Sprint("c", containers-1)))
		return err == nil && strings.Count(string(b), "hello\n") == 2
	})
	settleMemory()
	each := float64(statusKiB(t, "VmRSS")-before) / containers
	t.Logf("%.1f KiB and %.2f goroutines a container", each, float64(runtime.NumGoroutine()-routines)/containers)
	if each > 50 && !raceEnabled || runtime.NumGoroutine() > routines+5 {
		t.Errorf("a silent container costs %.1f KiB, %d goroutines in all", each, runtime.NumGoroutine()-routines)
	}
	for _, f := range ends {
		_ = f.Close()
	}
}

func settleMemory() {
	for range 3 {
		debug.FreeOSMemory()
	}
}
