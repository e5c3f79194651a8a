// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ends are the ways in which a daemon goes away. There must be no difference.
var ends = map[string]func(n *streamNode){
	"SIGKILL": func(n *streamNode) { n.Kill() },
	"SIGTERM": func(n *streamNode) { n.Term() },
}

// TestLastWords: containers that write and exit while there is no daemon have everything in their logs afterwards, as far as it
// fits into a pipe, which is 1 MiB.
func TestLastWords(t *testing.T) {
	n := startStreamNode(t)
	const containers, lines, size = 10, 6000, 100
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			var ids []string
			var pids []int
			for range containers {
				id := n.run(waiting, "stream", "lines", fmt.Sprint(lines), fmt.Sprint(size), "4096")
				ids, pids = append(ids, id), append(pids, n.pidOf(id))
			}
			end(n)
			for _, pid := range pids {
				release(t, pid)
			}
			for _, pid := range pids {
				waitGone(t, pid)
			}
			n.Start()
			for _, id := range ids {
				s := n.Status(id)
				if s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != 0 {
					t.Errorf("%v, exit code %d", s.State, s.ExitCode)
				}
				checkLines(t, s.LogPath, lines, size)
				n.stop(id)
			}
		})
	}
}

// TestStreamsOutliveDaemon: a terminal does not hang up, an open stdin stays open, and both can be attached to again. Also when the
// keeper that holds them has been killed before.
func TestStreamsOutliveDaemon(t *testing.T) {
	n := startStreamNode(t)
	script := `trap 'echo hung up' HUP; echo ready; while read line; do echo "got $line"; done; echo end of input`
	tty, pipe := n.run(terminal, "sh", "-c", script), n.run(stdin, "sh", "-c", script)
	round := 0
	talk := func(id string, terminal bool) {
		t.Helper()
		a := n.attachTo(transports[round%2], id, terminal)
		word := fmt.Sprintf("round %d", round)
		fmt.Fprintln(a.in, word)
		n.has(&a.out, "got "+word)
		a.leave()
		<-a.ended
		round++
	}
	for name, end := range ends {
		for _, keeperToo := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, keeper killed: %v", name, keeperToo), func(t *testing.T) {
				if keeperToo {
					n.killKeeper()
				}
				end(n)
				n.Start()
				talk(tty, true)
				talk(pipe, false)
			})
		}
	}
	for _, id := range []string{tty, pipe} {
		log := strings.Join(n.ContainerLog(id), "\n")
		if strings.Contains(log, "hung up") || strings.Contains(log, "end of input") || strings.Count(log, "got round") != 4 {
			t.Errorf("log:\n%s", log)
		}
		if s := n.Status(id); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Errorf("container is %v", s.State)
		}
	}
}

// TestStdinOnceOverRestart: whether stdin has been ended is remembered.
func TestStdinOnceOverRestart(t *testing.T) {
	n := startStreamNode(t)
	once := func(c *runtimeapi.ContainerConfig) { c.Stdin, c.StdinOnce = true, true }
	script := `cat; echo over; exec sleep 1000`
	used, unused := n.run(once, "sh", "-c", script), n.run(once, "sh", "-c", script)
	a := n.attachTo("spdy", used, false)
	a.in.Close()
	n.has(&a.out, "over")
	a.leave()
	<-a.ended
	n.Kill()
	n.Start()
	b := n.attachTo("spdy", unused, false)
	fmt.Fprintln(b.in, "first")
	n.has(&b.out, "first\n")
	if strings.Contains(b.out.String(), "over") {
		t.Error("the stdin of the other container has ended with the daemon")
	}
	b.in.Close()
	n.has(&b.out, "over\n")
	b.leave()
	<-b.ended
}

// logWriter is a container that writes to its stdout, and what its log must be.
type logWriter struct {
	command []string
	size    int64 // bytes
	check   func(t testing.TB, path string)
}

// TestLogOverRestart: four containers write at once, their logs are rotated every 50 ms, the daemon is killed in the middle, and the
// keeper before that. EMBEDCRI_LOG_LINES lines each, 200,000 by default.
func TestLogOverRestart(t *testing.T) {
	n := startStreamNode(t)
	const size = 100
	lines := envInt("EMBEDCRI_LOG_LINES", 200_000)
	pause := 0
	if lines <= 200_000 { // else the containers are done before the daemon is killed
		pause = 8000 // µs every 64 KiB: 2.5 s in all
	}
	var writers []logWriter
	for _, per := range []int{64 << 10, size, 4096, 777} {
		writers = append(writers, logWriter{
			command: []string{"lines", fmt.Sprint(lines), fmt.Sprint(size), fmt.Sprint(per), fmt.Sprint(pause)},
			size:    int64(lines) * size,
			check:   func(t testing.TB, path string) { checkLines(t, path, lines, size) },
		})
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) { n.writeOverRestart(t, end, writers) })
	}
}

// TestLogContentOverRestart is the same with what is no line of text: binary data, which does not end in a newline, in large writes and
// one byte at a time, and lines of 1 MiB, whose parts go on behind those that an earlier daemon wrote.
func TestLogContentOverRestart(t *testing.T) {
	n := startStreamNode(t)
	const binary, bytewise, long = 40_000_000, 400_000, 60 // each takes about 2.5 s with its pauses
	n.writeOverRestart(t, ends["SIGKILL"], []logWriter{
		{[]string{"random", fmt.Sprint(binary), "65536", "5", "4000"}, binary, func(t testing.TB, path string) { checkRandom(t, path, binary, 5) }},
		{[]string{"random", fmt.Sprint(bytewise), "1", "6", "400000"}, bytewise, func(t testing.TB, path string) { checkRandom(t, path, bytewise, 6) }},
		{[]string{"lines", fmt.Sprint(long), "1048576", "100000", "4000"}, long << 20, func(t testing.TB, path string) { checkLines(t, path, long, 1<<20) }},
	})
}

// writeOverRestart runs writers, all at once, rotates their logs, kills the keeper and ends the daemon in the middle.
func (n *streamNode) writeOverRestart(t *testing.T, end func(*streamNode), writers []logWriter) {
	var ids, paths []string
	var pids []int
	for _, w := range writers {
		id := n.run(waiting, append([]string{"stream"}, w.command...)...)
		ids, pids, paths = append(ids, id), append(pids, n.pidOf(id)), append(paths, n.Status(id).LogPath)
	}
	stop := n.rotate(ids, paths)
	started := time.Now()
	for _, pid := range pids {
		release(t, pid)
	}
	n.Eventually("a fifth is written", func() error {
		for i, path := range paths {
			if got := logSize(t, path); got < writers[i].size/5 {
				return fmt.Errorf("%d bytes", got)
			}
		}
		return nil
	})
	n.killKeeper()
	writing := 0
	for _, id := range ids {
		if n.Status(id).State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			writing++
		}
	}
	end(n)
	n.Start()
	if writing == 0 {
		t.Error("all were done before the daemon was")
	}
	total := int64(0)
	for i, pid := range pids {
		total += writers[i].size
		waitGone(t, pid)
	}
	took := time.Since(started)
	for _, id := range ids {
		if s := n.WaitExited(id); s.ExitCode != 0 {
			t.Errorf("exit code %d", s.ExitCode)
		}
	}
	renamed, reopened := stop()
	for i, path := range paths {
		writers[i].check(t, path)
		n.stop(ids[i])
	}
	t.Logf("%d MB in %v, %d of %d containers in the middle; %d rotations, %d reopenings",
		total/1e6, took.Round(time.Millisecond), writing, len(ids), renamed, reopened)
}

// rotate renames logs every 50 ms and has them reopened, as the kubelet does, until the returned function is called. While there is
// no daemon a log is renamed once, and its reopening is tried again and again.
func (n *streamNode) rotate(ids, paths []string) (stop func() (renamed, reopened int)) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	renamed, reopened := 0, 0
	wg.Go(func() {
		next := make([]int, len(ids))
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for i, path := range paths {
				err := os.Rename(path, fmt.Sprintf("%s.%d", path, next[i]+1))
				if err == nil {
					next[i]++
					renamed++
				} else if !errors.Is(err, fs.ErrNotExist) {
					n.t.Error(err)
				}
				call, done := context.WithTimeout(ctx, time.Second)
				if n.Runtime.ReopenContainerLog(call, ids[i]) == nil {
					reopened++
				}
				done()
			}
		}
	})
	return func() (int, int) {
		cancel()
		wg.Wait()
		return renamed, reopened
	}
}

// logSize is how much text a log holds, about.
func logSize(t testing.TB, path string) (size int64) {
	t.Helper()
	for _, f := range logFiles(t, path) {
		if st, err := os.Stat(f); err == nil { // it may be renamed at this moment
			size += st.Size()
		}
	}
	return size
}

// keeperPid finds the node's keeper by its command line, which ends in its socket; 0 if there is none.
func (n *streamNode) keeperPid() int {
	socket := []byte(filepath.Join(n.State, "keeper.sock"))
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if args, err := os.ReadFile(p); err == nil && bytes.Contains(args, []byte("embedcri-keeper")) && bytes.Contains(args, socket) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			return pid
		}
	}
	return 0
}

// killKeeper kills the node's keeper and waits until the daemon has given everything to another one.
func (n *streamNode) killKeeper() {
	n.t.Helper()
	old, times := n.keeperPid(), n.handovers()
	if old == 0 {
		n.t.Fatal("there is no keeper")
	}
	if err := unix.Kill(old, unix.SIGKILL); err != nil {
		n.t.Fatal(err)
	}
	n.Eventually("a new keeper holds everything", func() error {
		if pid := n.keeperPid(); pid == 0 || pid == old {
			return errors.New("no new keeper")
		}
		if n.handovers() == times {
			return errors.New("it has nothing yet")
		}
		return nil
	})
}

// handovers counts how often the daemons of this node say that they have done so.
func (n *streamNode) handovers() int {
	b, err := os.ReadFile(n.LogFile)
	if err != nil {
		n.t.Fatal(err)
	}
	return bytes.Count(b, []byte("handed everything to a new one"))
}
