// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// shortDir is a temporary directory short enough for a socket.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "io")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := StopKeeper(filepath.Join(dir, "keeper")); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestKilledDaemon kills the daemon again and again while four containers write to both streams
// and their logs are rotated every few milliseconds: every line is there once, in order, whole.
// IOATTACH_LINES and IOATTACH_KILLS make it longer.
func TestKilledDaemon(t *testing.T) {
	lines, kills, containers := envInt("IOATTACH_LINES", 100_000), envInt("IOATTACH_KILLS", 15), 4
	for _, per := range []int{100, 5000} {
		t.Run(fmt.Sprint("writes=", per), func(t *testing.T) {
			root := shortDir(t)
			args := []string{root, fmt.Sprint(containers), fmt.Sprint(lines), "100", fmt.Sprint(per)}
			killed := 0
			for done := false; !done; {
				d := roleCmd("daemon", args...)
				d.Stderr = os.Stderr
				if err := d.Start(); err != nil {
					t.Fatal(err)
				}
				exited := make(chan error, 1)
				go func() { exited <- d.Wait() }()
				if killed == 0 {
					await(t, func() bool { _, err := os.Stat(filepath.Join(root, "ready")); return err == nil })
				}
				var late <-chan time.Time
				if killed < kills {
					late = time.After(time.Duration(killed*7%40+3) * time.Millisecond)
				}
				select {
				case err := <-exited:
					if err != nil {
						t.Fatal("daemon: ", err)
					}
					done = true
				case <-late:
					killed++
					if err := d.Process.Kill(); err != nil {
						t.Fatal(err)
					}
					<-exited
				}
			}
			t.Logf("killed %d times", killed)
			for i := range containers {
				entries := readLog(t, rotated(t, filepath.Join(root, "logs", fmt.Sprint("c", i)))...)
				for _, stream := range sourceNames {
					checkNumbered(t, fmt.Sprint("c", i), entries, stream, lines, 100)
				}
				if t.Failed() {
					for _, f := range rotated(t, filepath.Join(root, "logs", fmt.Sprint("c", i))) {
						if e := readLog(t, f); len(e) > 0 {
							t.Logf("%s: %d, %v ... %v", f, len(e), e[0], e[len(e)-1])
						}
					}
				}
			}
		})
	}
}

func envInt(name string, n int) int {
	if v, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return v
	}
	return n
}

// await polls until ok, for at most ten seconds.
func await(t testing.TB, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain")
		}
	}
}

// rotated returns a log's files, the oldest first: by number, as by name x.10 would come before x.2 and look like batches out of order.
func rotated(t testing.TB, path string) []string {
	t.Helper()
	paths, err := filepath.Glob(path + ".*")
	if err != nil {
		t.Fatal(err)
	}
	sort.Slice(paths, func(i, j int) bool { return suffix(paths[i]) < suffix(paths[j]) })
	if _, err := os.Stat(path); err == nil {
		paths = append(paths, path)
	}
	return paths
}

func suffix(path string) int {
	n, _ := strconv.Atoi(path[strings.LastIndexByte(path, '.')+1:])
	return n
}

// checkNumbered wants what writerRole wrote, every line once and in order.
func checkNumbered(t testing.TB, id string, entries []entry, stream string, lines, size int) {
	t.Helper()
	next, bad := 0, 0
	for _, e := range entries {
		if e.stream != stream {
			continue
		}
		want := string(appendNumber(nil, next)) + " " + strings.Repeat("x", size-12)
		if e.tag != "F" || e.text != want {
			if bad++; bad < 4 {
				t.Errorf("%s %s line %d is %s %.60q", id, stream, next, e.tag, e.text)
			}
			if n, err := strconv.Atoi(e.text[:min(10, len(e.text))]); err == nil {
				next = n
			}
		}
		next++
	}
	if next != lines || bad > 0 {
		t.Errorf("%s %s: %d lines, want %d; %d wrong", id, stream, next, lines, bad)
	}
}

// TestRestart ends one daemon's hub and starts another, with a keeper between them.
func TestRestart(t *testing.T) {
	root := shortDir(t)
	open := func() (*node, Keeper) {
		k, err := OpenKeeper(t.Context(), testKeeper(root))
		if err != nil {
			t.Fatal(err)
		}
		h, err := New(HubOptions{Dir: filepath.Join(root, "hub"), Keeper: k})
		if err != nil {
			t.Fatal(err)
		}
		return &node{t: t, hub: h, root: root}, k
	}
	shut := func(n *node, k Keeper, all ...*Streams) {
		for _, st := range all {
			if err := st.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(n.hub.Close(), k.Close()); err != nil {
			t.Fatal(err)
		}
	}
	make := func(n *node, id string, o Options) *Streams {
		o.LogPath = n.log(id)
		st, err := n.hub.Create(n.dir(id), o)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	load := func(n *node, id string, o Options) *Streams {
		o.LogPath = n.log(id)
		st, err := n.hub.Load(n.dir(id), o)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	in, tty := Options{Stdin: true, StdinOnce: true}, Options{TTY: true, Stdin: true}

	n, k := open()
	last, chat, term := make(n, "last", Options{}), make(n, "chat", in), make(n, "term", tty)
	if err := unix.Mkfifo(filepath.Join(root, "go"), 0o600); err != nil {
		t.Fatal(err)
	}
	// last dies while nobody is there, in the middle of a line that has begun before.
	lastCmd := start(t, last, `printf begun; read x < `+root+`/go; echo " and ended"; echo last words; printf unterminated`)
	chatCmd := start(t, chat, `while read x; do echo "got $x"; done; echo end`)
	termCmd := startTTY(t, term, `trap 'echo hangup' HUP; read x; echo "got $x"`)
	await(t, func() bool { return tailOf(last.sources[0]) == "begun" })
	shut(n, k, last, chat, term)

	if err := os.WriteFile(filepath.Join(root, "go"), []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := lastCmd.Wait(); err != nil {
		t.Fatal(err)
	}
	n, k = open()
	last, chat, term = load(n, "last", Options{}), load(n, "chat", in), load(n, "term", tty)
	drain(t, last, nil)
	want := "begun and ended\nlast words\nunterminated\n"
	if got := output(readLog(t, n.log("last")), "stdout"); got != want {
		t.Errorf("last words %q, want %q", got, want)
	}
	var screen sink
	pr, pw := io.Pipe()
	defer pw.Close()
	done := attach(t, t.Context(), term, Client{Stdin: pr, Stdout: &screen, TTY: true})
	if err := term.Resize(80, 25); err != nil {
		t.Error(err)
	}
	fmt.Fprintln(pw, "typed")
	drain(t, term, termCmd)
	if err := result(t, done); err != nil || !strings.Contains(screen.String(), "got typed\r\n") || strings.Contains(screen.String(), "hangup") {
		t.Errorf("terminal after the restart: %v, %q", err, screen.String())
	}
	// Another restart, a new keeper in between: nothing may change for who has his stdin open.
	pids := keeperPids(t, filepath.Join(root, "keeper"))
	if len(pids) != 1 {
		t.Fatalf("%d keepers: %v", len(pids), pids)
	}
	if err := unix.Kill(pids[0], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { names, err := k.Names(); return err == nil && len(names) > 0 })
	names, err := k.Names()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"stdin", "stdout", "stderr"} {
		if !slices.Contains(names, filepath.Join(n.dir("chat"), name)) {
			t.Errorf("the new keeper has no %s of chat: %q", name, names)
		}
	}
	for _, name := range names {
		if strings.Contains(name, "/term/") || strings.Contains(name, "/last/") {
			t.Errorf("the keeper still has %s of a dead process", name)
		}
	}
	shut(n, k, last, chat, term)
	n, k = open()
	chat = load(n, "chat", in)
	done = attach(t, t.Context(), chat, Client{Stdin: strings.NewReader("hello\n")})
	drain(t, chat, chatCmd) // StdinOnce: it sees the end
	if err := result(t, done); err != nil {
		t.Error(err)
	}
	if got := output(readLog(t, n.log("chat")), "stdout"); got != "got hello\nend\n" {
		t.Errorf("log %q", got)
	}
	for _, id := range []string{"last", "term", "chat"} {
		if err := n.hub.Remove(n.dir(id)); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(n.dir(id)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("left behind: %v", err)
		}
	}
	await(t, func() bool {
		names, err := k.Names()
		return err == nil && !slices.ContainsFunc(names, func(n string) bool { return !strings.Contains(n, "/hub/lane-") })
	})
	shut(n, k, chat)
}

// keeperPids finds the processes that serve socket.
func keeperPids(t testing.TB, socket string) []int {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, d := range dirs {
		if b, err := os.ReadFile(d); err == nil && strings.HasPrefix(string(b), "embedcri-keeper\x00"+socket+"\x00") {
			pid, _ := strconv.Atoi(strings.Split(d, "/")[2])
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestKeeperEndsWithItsSocket(t *testing.T) {
	root := shortDir(t)
	k, err := OpenKeeper(t.Context(), testKeeper(root))
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(root, "keeper")
	pids := keeperPids(t, socket)
	if len(pids) != 1 {
		t.Fatalf("keepers %v", pids)
	}
	if _, err := k.Get("nothing"); !errdefs.IsNotFound(err) {
		t.Errorf("get of nothing: %v", err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pids[0])); err == nil {
		for _, l := range strings.Split(string(b), "\n") {
			if strings.HasPrefix(l, "VmRSS") || strings.HasPrefix(l, "RssAnon") || strings.HasPrefix(l, "Threads") {
				t.Log("keeper ", l)
			}
		}
	}
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return len(keeperPids(t, socket)) == 0 })
}

// TestOpenHeld lets a daemon die between opening the FIFO that a writer waits at and reading it: the writer does not notice, and the
// next daemon reads what it wrote.
func TestOpenHeld(t *testing.T) {
	root := shortDir(t)
	path := filepath.Join(root, "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	open := func() Keeper {
		t.Helper()
		k, err := OpenKeeper(t.Context(), testKeeper(root))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	defer func() {
		if err := StopKeeper(filepath.Join(root, "keeper")); err != nil {
			t.Error(err)
		}
	}()
	opened := make(chan *os.File)
	go func() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0) // waits for a reader
		if err != nil {
			t.Error(err)
		}
		opened <- f
	}()
	k := open()
	fd, err := k.Open("end", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Close(fd), k.Close()); err != nil { // as SIGKILL does
		t.Fatal(err)
	}
	w := <-opened
	if _, err := w.Write([]byte("0")); err != nil {
		t.Fatalf("the writer finds no reader: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	k = open()
	defer k.Close()
	if fd, err = k.Open("end", path); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var b [2]byte
	if n, err := unix.Read(fd, b[:]); n != 1 || err != nil || b[0] != '0' {
		t.Errorf("the next daemon reads %d bytes, %q: %v", n, b, err)
	}
	if err := k.Drop("end"); err != nil {
		t.Error(err)
	}
	if _, err := k.Get("end"); !errdefs.IsNotFound(err) {
		t.Errorf("after it was dropped: %v", err)
	}
	if _, err := k.Open("end", filepath.Join(root, "keeper.lock")); err == nil {
		t.Error("the keeper opened what is no FIFO")
	}
}
