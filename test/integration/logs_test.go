// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// checkRandom wants in a log what "stream random n PER seed" writes. A line that is not ended is F as well, so the log of a stream
// that does not end in a newline says one more than there was.
func checkRandom(t testing.TB, path string, n int64, seed byte) {
	t.Helper()
	got, written := sha256.New(), int64(0)
	eachEntry(t, logFiles(t, path), func(stream string, tag byte, text []byte) {
		if len(text) > 16<<10 {
			t.Errorf("a line of %d bytes", len(text))
		}
		got.Write(text)
		written += int64(len(text))
		if tag == 'F' {
			got.Write([]byte{'\n'})
			written++
		}
	})
	want := sha256.New()
	_, _ = io.CopyN(want, rand.NewChaCha8([32]byte{seed}), n)
	if written == n+1 {
		want.Write([]byte{'\n'})
	}
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Errorf("%s: %d bytes are not the %d that were written", path, written, n)
	}
}

// TestLogContent: what is no line of text is logged as well as what is.
func TestLogContent(t *testing.T) {
	n := startStreamNode(t)
	for name, c := range map[string]struct {
		command []string
		check   func(t *testing.T, path string)
	}{
		"binary": {[]string{"random", "20000000", "65536", "3"}, func(t *testing.T, path string) { checkRandom(t, path, 20_000_000, 3) }},
		"binary in writes of one byte": {[]string{"random", "200000", "1", "4"},
			func(t *testing.T, path string) { checkRandom(t, path, 200_000, 4) }},
		"lines of 1 MiB":              {[]string{"lines", "20", "1048576", "1048576"}, func(t *testing.T, path string) { checkLines(t, path, 20, 1<<20) }},
		"lines of 16 KiB":             {[]string{"lines", "500", "16384", "10000"}, func(t *testing.T, path string) { checkLines(t, path, 500, 16<<10) }},
		"lines in writes of one byte": {[]string{"lines", "2000", "100", "1"}, func(t *testing.T, path string) { checkLines(t, path, 2000, 100) }},
		"short lines in large writes": {[]string{"lines", "500000", "12", "65536"}, func(t *testing.T, path string) { checkLines(t, path, 500_000, 12) }},
	} {
		t.Run(name, func(t *testing.T) {
			id := n.run(nil, append([]string{"stream"}, c.command...)...)
			s := n.WaitExited(id)
			if s.ExitCode != 0 {
				t.Errorf("exit code %d", s.ExitCode)
			}
			c.check(t, s.LogPath) // all is there when the exit is
		})
	}
}

// TestReopenRefused: the log of a container that does not run is left alone.
func TestReopenRefused(t *testing.T) {
	n := startStreamNode(t)
	id := n.run(nil, "echo", "-n", "no newline")
	path := n.WaitExited(id).LogPath
	if l := n.ContainerLog(id); len(l) != 1 || l[0] != "stdout F no newline" {
		t.Errorf("log %q", l)
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	want(t, n.Runtime.ReopenContainerLog(n.Ctx(), id), codes.FailedPrecondition, "not running")
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a log was made for a container that has exited: %v", err)
	}
}

// TestLogThroughput is 200 MB of 100-byte lines from one container, in large writes and in one write for each line. Peers on two
// cores: containerd 2.3 about 40 MB/s for 5 CPU-s, CRI-O's conmon 245 MB/s.
func TestLogThroughput(t *testing.T) {
	n := startStreamNode(t)
	const lines, size = 2_000_000, 100
	for _, per := range []int{64 << 10, size} {
		id := n.run(waiting, "stream", "lines", fmt.Sprint(lines), fmt.Sprint(size), fmt.Sprint(per))
		pid := n.pidOf(id)
		before := n.usage()
		started := time.Now()
		release(t, pid)
		waitGone(t, pid) // asking the daemon every 2 ms would cost it more than the log
		took := time.Since(started)
		s := n.WaitExited(id)
		cpu := n.usage().cpu - before.cpu
		t.Logf("writes of %d bytes: %.0f MB/s, %.2f CPU-s of the daemon", per, lines*size/1e6/took.Seconds(), cpu.Seconds())
		checkLines(t, s.LogPath, lines, size)
		// The target of 0.6 s is make bench's to judge. Where other tests want the processors too, each hand-over of one of them
		// counts as the daemon's time, 1.3 s have been seen; half of what containerd takes on a quiet machine is the bound here.
		if cpu > 2500*time.Millisecond {
			t.Errorf("the daemon took %v of CPU time", cpu)
		}
		n.stop(id)
	}
}

// TestIdleCost is the daemon's memory for each silent container: EMBEDCRI_IDLE of them, 100 by default.
func TestIdleCost(t *testing.T) {
	n := startStreamNode(t)
	count := envInt("EMBEDCRI_IDLE", 100)
	for range 5 { // what is made once
		n.run(nil, "sleep", "100000")
	}
	before := n.settled()
	started := time.Now()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range count / 4 {
				cfg := n.ContainerConfig(n.ref, "sleep", "100000")
				cfg.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
				id, err := n.Runtime.CreateContainer(n.Ctx(), n.pod, cfg, n.pc)
				if err == nil {
					err = n.Runtime.StartContainer(n.Ctx(), id)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	count = count / 4 * 4
	took := time.Since(started)
	after := n.settled()
	each := (after.anon - before.anon) / count
	t.Logf("%d containers in %v; each: %d KiB of memory, %.1f fds, %.1f goroutines", count, took.Round(time.Millisecond), each,
		float64(after.fds-before.fds)/float64(count), float64(after.goroutines-before.goroutines)/float64(count))
	if grown := after.anon - before.anon; grown > 50*count+8<<10 { // 50 KiB each, and 8 MiB for what a garbage collector has yet to return
		t.Errorf("%d KiB for a silent container: %v, before %v", each, after, before)
	}
	idle := n.usage().cpu
	time.Sleep(time.Second) // what is measured is this time itself
	t.Logf("they take %.1f %% of a CPU", (n.usage().cpu-idle).Seconds()*100)
}

// settled is the daemon's usage when what its garbage collector may return has been returned: it does so in the background over
// minutes, so the least of a few seconds is taken.
func (n *streamNode) settled() usage {
	n.t.Helper()
	least := n.usage()
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if u := n.usage(); u.anon < least.anon {
			least = u
		}
	}
	return least
}
