// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// TestIntegrity writes what is hard to log to both streams, with a rotation every few
// milliseconds.
func TestIntegrity(t *testing.T) {
	random := make([]byte, 4<<20)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(random)
	var megabytes bytes.Buffer
	for i := range 12 {
		megabytes.Write(bytes.Repeat([]byte{byte('a' + i)}, 1<<20))
		megabytes.WriteByte('\n')
	}
	var short bytes.Buffer
	for i := range 20_000 {
		fmt.Fprintln(&short, i)
	}
	for _, c := range []struct {
		name string
		data []byte
		per  func() int // bytes a write
	}{
		{"binary", random, func() int { return 1 + rand.IntN(70_000) }},
		{"one-byte writes", short.Bytes(), func() int { return 1 }},
		{"megabyte lines", megabytes.Bytes(), func() int { return 1 + rand.IntN(300_000) }},
		{"newlines", bytes.Repeat([]byte{'\n'}, 300_000), func() int { return 1 << 20 }},
		{"no final newline", []byte("a\nb"), func() int { return 2 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, HubOptions{})
			st := n.create("c", Options{})
			stdio, err := st.Stdio()
			if err != nil {
				t.Fatal(err)
			}
			written := make(chan error, 2)
			for _, end := range []*os.File{stdio.Stdout, stdio.Stderr} {
				w := dupFile(t, end)
				go func() {
					defer w.Close()
					for rest := c.data; len(rest) > 0; {
						k := min(len(rest), c.per())
						if _, err := w.Write(rest[:k]); err != nil {
							written <- err
							return
						}
						rest = rest[k:]
					}
					written <- nil
				}()
			}
			if err := st.Started(); err != nil {
				t.Fatal(err)
			}
			torn := map[string]bool{}
			for left, i := 2, 0; left > 0; i++ {
				select {
				case err := <-written:
					if err != nil {
						t.Fatal(err)
					}
					left--
				case <-time.After(3 * time.Millisecond):
					if err := os.Rename(n.log("c"), fmt.Sprint(n.log("c"), ".", i)); err != nil {
						t.Fatal(err)
					}
					from := time.Now()
					if err := st.ReopenLog(); err != nil {
						t.Fatal(err)
					}
					torn[fmt.Sprint(n.log("c"), ".", i)] = time.Since(from) >= chainWait
				}
			}
			drain(t, st, nil)
			want := string(c.data)
			if !strings.HasSuffix(want, "\n") {
				want += "\n"
			}
			files := rotated(t, n.log("c"))
			entries := readLog(t, files...)
			for _, stream := range sourceNames {
				if got := output(entries, stream); got != want {
					t.Errorf("%s: %d bytes differ from the %d written", stream, len(got), len(want))
				}
			}
			t.Logf("%d files", len(files))
			for _, f := range files {
				if torn[f] {
					continue
				}
				// The parts of a long line stay together.
				last := map[string]string{}
				for _, e := range readLog(t, f) {
					last[e.stream] = e.tag
				}
				if last["stdout"] == "P" || last["stderr"] == "P" {
					t.Errorf("%s ends in the middle of a line", f)
				}
			}
		})
	}
}

func dupFile(t testing.TB, f *os.File) *os.File {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), f.Name())
}

// TestFullDisk fills the log's file system: the container goes on, what was lost is counted,
// and the log goes on with whole lines once there is room.
func TestFullDisk(t *testing.T) {
	n := newNode(t, HubOptions{})
	disk := filepath.Join(n.root, "logs")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("mount tmpfs: ", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	st := n.create("c", Options{})
	stdio, err := st.Stdio()
	if err != nil {
		t.Fatal(err)
	}
	w := dupFile(t, stdio.Stdout)
	if err := st.Started(); err != nil {
		t.Fatal(err)
	}
	const lines = 40_000 // 4 MB
	total := 0
	write := func(k int) {
		for range k {
			if _, err := fmt.Fprintf(w, "%010d %s\n", total, strings.Repeat("y", 88)); err != nil {
				t.Fatal(err)
			}
			total++
		}
	}
	write(lines)
	await(t, func() bool {
		// What is still in the pipe would fill the new file as well.
		left, err := unix.IoctlGetInt(int(w.Fd()), unix.TIOCINQ)
		return err == nil && left == 0 && n.hub.Stats().DroppedLines > 0
	})
	// Room again: the log was rotated away and removed.
	if err := os.Remove(n.log("c")); err != nil {
		t.Fatal(err)
	}
	if err := st.ReopenLog(); err != nil {
		t.Fatal(err)
	}
	write(100)
	await(t, func() bool {
		b, err := os.ReadFile(n.log("c"))
		return err == nil && bytes.Contains(b, fmt.Appendf(nil, "%010d ", total-1))
	})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	drain(t, st, nil)
	entries := readLog(t, n.log("c"))
	for i, e := range entries {
		if want := fmt.Sprintf("%010d ", total-len(entries)+i); !strings.HasPrefix(e.text, want) || len(e.text) != 99 {
			t.Fatalf("line %d is %q", i, e.text)
		}
	}
	t.Logf("%+v", n.hub.Stats())
}

// TestTornLineIsTakenBack leaves room for part of a line only, and then frees some.
func TestTornLineIsTakenBack(t *testing.T) {
	n := newNode(t, HubOptions{})
	disk := filepath.Join(n.root, "logs")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=64k"); err != nil {
		t.Skip("mount tmpfs: ", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	ballast := filepath.Join(disk, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 32<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	st := n.create("c", Options{})
	stdio, err := st.Stdio()
	if err != nil {
		t.Fatal(err)
	}
	w := dupFile(t, stdio.Stdout)
	if err := st.Started(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(bytes.Repeat([]byte(strings.Repeat("z", 999)+"\n"), 100)); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return n.hub.Stats().DroppedLines > 0 })
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "after\n"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	drain(t, st, nil)
	entries := readLog(t, n.log("c"))
	for i, e := range entries[:len(entries)-1] {
		if len(e.text) != 999 {
			t.Errorf("line %d has %d bytes", i, len(e.text))
		}
	}
	if last := entries[len(entries)-1]; last.text != "after" {
		t.Errorf("last line %q", last.text)
	}
	if s := n.hub.Stats(); s.DroppedLines != uint64(101-len(entries)) {
		t.Errorf("%d lines in the log, %+v", len(entries), s)
	}
}

func TestReopenLogOfDeadProcess(t *testing.T) {
	n := newNode(t, HubOptions{})
	st := n.create("c", Options{})
	drain(t, st, start(t, st, "echo x"))
	if err := os.Rename(n.log("c"), n.log("c")+".1"); err != nil {
		t.Fatal(err)
	}
	if err := st.ReopenLog(); !errdefs.IsFailedPrecondition(err) {
		t.Error(err)
	}
	if _, err := os.Stat(n.log("c")); !os.IsNotExist(err) {
		t.Error("a file was created: ", err)
	}
}

func TestLogPathIsNoLink(t *testing.T) {
	n := newNode(t, HubOptions{})
	if err := os.MkdirAll(filepath.Dir(n.log("c")), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, plant := range []func() error{
		func() error { return os.Symlink("/etc/passwd", n.log("c")) },
		func() error { return unix.Mkfifo(n.log("c"), 0o600) },
	} {
		if err := plant(); err != nil {
			t.Fatal(err)
		}
		if st, err := n.hub.Create(n.dir("c"), Options{LogPath: n.log("c")}); err == nil {
			t.Errorf("created with a log that is no file: %v", st.Remove())
		}
		if _, err := os.Lstat(n.dir("c")); !os.IsNotExist(err) {
			t.Error("left behind: ", err)
		}
		if err := os.Remove(n.log("c")); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDrainIsQuick measures what the streams add to an exit.
func TestDrainIsQuick(t *testing.T) {
	n := newNode(t, HubOptions{})
	best := time.Hour
	for i := range 20 {
		st := n.create(fmt.Sprint("c", i), Options{})
		cmd := start(t, st, "echo x")
		_ = cmd.Wait()
		from := time.Now()
		st.Drain(t.Context())
		best = min(best, time.Since(from))
	}
	t.Log("best ", best)
	if best > 5*time.Millisecond {
		t.Errorf("drain took %v", best)
	}
}

// TestDrainWithHolder has a child that outlives the process and keeps the pipes.
func TestDrainWithHolder(t *testing.T) {
	n := newNode(t, HubOptions{DrainIdle: 50 * time.Millisecond})
	st := n.create("c", Options{})
	if err := unix.Mkfifo(filepath.Join(n.root, "go"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := start(t, st, `(read x <`+n.root+`/go; echo late) & echo $!; printf rest`)
	_ = cmd.Wait()
	from := time.Now()
	drain(t, st, nil)
	if took := time.Since(from); took < 50*time.Millisecond || took > time.Second {
		t.Errorf("drain took %v", took)
	}
	got := readLog(t, n.log("c"))
	if len(got) != 2 || got[1].text != "rest" || got[1].tag != "F" {
		t.Errorf("log %v", got)
	}
	// It is read on: the child does not block, and what it writes is logged.
	if err := exec.Command("/bin/sh", "-c", "echo >"+n.root+"/go").Run(); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return len(readLog(t, n.log("c"))) == 3 })
}

// TestNonRootReopens lets an unprivileged user open /dev/stdout again.
func TestNonRootReopens(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root")
	}
	n := newNode(t, HubOptions{})
	st := n.create("c", Options{UID: 12345, GID: 12345, Stdin: true})
	cmd := start(t, st, `exec setpriv --reuid 12345 --regid 12345 --clear-groups sh -c 'echo again > /dev/stdout; echo err > /dev/stderr; : < /dev/stdin'`)
	drain(t, st, cmd)
	if !cmd.ProcessState.Success() {
		t.Error(cmd.ProcessState)
	}
	if got := readLog(t, n.log("c")); len(got) != 2 {
		t.Errorf("log %v", got)
	}
}
