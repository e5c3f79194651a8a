// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	criclient "k8s.io/cri-client/pkg"

	"github.com/embedcri/embedcri/internal/testenv"
)

// none waits until a container has no process whose command line contains text.
func (n *streamNode) none(id, text string) {
	n.t.Helper()
	n.Eventually("no process is left", func() error {
		if pids := processesIn(id, text); len(pids) > 0 {
			return fmt.Errorf("%q still runs as %v", text, pids)
		}
		return nil
	})
}

// escapes starts "sleep SECONDS" in the background, and again in a session of its own and with another parent, which is how
// daemons get away from whoever started them.
func escapes(seconds int) string {
	return fmt.Sprintf("sleep %d & setsid sh -c '(sleep %d &) &' ; ", seconds, seconds)
}

// TestExecSync runs commands as the kubelet's probes do.
func TestExecSync(t *testing.T) {
	n := startStreamNode(t)
	id := n.run(nil, "sleep", "1000")
	ctx := n.Ctx()
	n.flat(func() {
		// Each output alone fits into the kubelet's message up to its bound of 16 MiB, less what the message needs itself.
		const cap = 16<<20 - 1<<10
		_, _, err := n.Runtime.ExecSync(ctx, id, []string{"sh", "-c", "head -c 50000000 /dev/zero; exit 4"}, time.Minute)
		if err == nil || !strings.Contains(err.Error(), "exited with 4") {
			t.Errorf("exit code of a command that prints 50 MB: %v", err)
		}
		out, errOut, err := n.Runtime.ExecSync(ctx, id, []string{"sh", "-c", "head -c 50000000 /dev/zero; head -c 50000000 /dev/zero >&2"}, time.Minute)
		if err != nil || len(out)+len(errOut) != cap || len(out) != cap/2 {
			t.Errorf("both outputs too long: %d and %d bytes, %v", len(out), len(errOut), err)
		}
		out, _, err = n.Runtime.ExecSync(ctx, id, []string{"head", "-c", "50000000", "/dev/zero"}, time.Minute)
		if err != nil || len(out) != cap {
			t.Errorf("one output too long: %d bytes, %v", len(out), err)
		}
		if _, _, err = n.Runtime.ExecSync(ctx, id, []string{"cat"}, time.Minute); err != nil {
			t.Errorf("a command that reads stdin, of which there is none: %v", err)
		}
	})
	n.flat(func() {
		// Timed out: nothing of it is left.
		started := time.Now()
		_, _, err := n.Runtime.ExecSync(ctx, id, []string{"sh", "-c", escapes(7001) + "sleep 7001"}, time.Second)
		if took := time.Since(started); !errors.Is(err, criclient.ErrCommandTimedOut) || took < time.Second || took > 5*time.Second {
			t.Errorf("time-out of 1 s: %v, after %v", err, took)
		}
		n.none(id, "sleep 7001")

		// Its client is gone: likewise.
		ctx, leave := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() {
			_, _, err := n.Runtime.ExecSync(ctx, id, []string{"sh", "-c", escapes(7002) + "sleep 7002"}, 0)
			ended <- err
		}()
		n.Eventually("the command runs", func() error {
			if pids := processesIn(id, "sleep 7002"); len(pids) < 3 {
				return fmt.Errorf("processes %v", pids)
			}
			return nil
		})
		leave()
		want(t, <-ended, codes.Canceled, "")
		n.none(id, "sleep 7002")
	})
	n.noExecGroups(id)
}

// noExecGroups wants containers to have none of them, but for one that the kernel kept busy for a moment: the next exec removes it.
func (n *streamNode) noExecGroups(ids ...string) {
	n.t.Helper()
	n.Eventually("the cgroups of execs are gone", func() error {
		left := n.ExecCgroups()
		if len(left) == 0 {
			return nil
		}
		for _, id := range ids {
			if _, _, err := n.Runtime.ExecSync(n.Ctx(), id, []string{"true"}, time.Minute); err != nil {
				return err
			}
		}
		return fmt.Errorf("left: %v", left)
	})
}

// TestExecSyncBackgroundChild: a child that holds the output does not hold the answer, and goes when the container goes.
func TestExecSyncBackgroundChild(t *testing.T) {
	n := startStreamNode(t)
	n.flat(func() {
		id := n.run(nil, "sleep", "1000")
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				started := time.Now()
				out, _, err := n.Runtime.ExecSync(n.Ctx(), id, []string{"sh", "-c", "echo there; sleep 7003 & exit 0"}, 30*time.Second)
				if took := time.Since(started); err != nil || string(out) != "there\n" || took > testenv.Slow(4*time.Second) {
					t.Errorf("%q, %v, after %v; want an answer after 2 s", out, err, took)
				}
			})
		}
		wg.Wait()
		if pids := processesIn(id, "sleep 7003"); len(pids) != 3 {
			t.Errorf("background processes of execs that went well: %v, want 3", pids)
		}
		if got := n.ExecCgroups(); len(got) != 3 {
			t.Errorf("cgroups of execs whose children still run: %v, want 3", got)
		}
		// A child that ends by itself leaves nothing until the container ends.
		pids := processesIn(id, "sleep 7003")
		_ = unix.Kill(pids[0], unix.SIGKILL)
		n.Eventually("one of the cgroups is gone", func() error {
			if _, _, err := n.Runtime.ExecSync(n.Ctx(), id, []string{"true"}, time.Minute); err != nil {
				return err
			}
			if got := n.ExecCgroups(); len(got) > 2 {
				return fmt.Errorf("there are %v", got)
			}
			return nil
		})
		n.stop(id)
		n.none(id, "sleep 7003")
	})
}

// TestExecSyncSoak: EMBEDCRI_SOAK calls, 500 by default, leave the daemon as it was.
func TestExecSyncSoak(t *testing.T) {
	n := startStreamNode(t)
	calls, parallel := envInt("EMBEDCRI_SOAK", 500), 4
	var ids []string
	for range parallel {
		ids = append(ids, n.run(nil, "sleep", "100000"))
	}
	soak := func(calls int) {
		var wg sync.WaitGroup
		for _, id := range ids {
			wg.Go(func() {
				for i := range calls / parallel {
					text := fmt.Sprintf("%s %d\n", id, i)
					ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
					out, _, err := n.Runtime.ExecSync(ctx, id, []string{"echo", "-n", text}, 30*time.Second)
					cancel()
					if err != nil || string(out) != text {
						t.Errorf("call %d: %q, %v", i, out, err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	soak(60) // buffers and threads that stay
	before := n.usage()
	started := time.Now()
	n.flat(func() {
		for i := range 10 { // a curve says more than an end
			soak(calls / 10)
			t.Logf("after %6d calls and %4.0f s: %v", (i+1)*(calls/10), time.Since(started).Seconds(), n.usage())
			if t.Failed() {
				return
			}
		}
	})
	took := time.Since(started)
	after := n.settled()
	t.Logf("%d calls: %.0f/s, %.1f CPU-ms of the daemon each", calls, float64(calls)/took.Seconds(),
		float64((after.cpu-before.cpu).Milliseconds())/float64(calls))
	if grown := after.anon - before.anon; grown > 16<<10 {
		t.Errorf("the daemon has grown by %d KiB", grown)
	}
	// Go never ends a thread, and makes more while those it has are held up in the kernel: on a busy machine a few.
	if grown := after.threads - before.threads; grown > 24 {
		t.Errorf("the daemon has %d threads more", grown)
	}
	n.noExecGroups(ids...)
	for _, id := range ids {
		left, err := os.ReadDir(filepath.Join(n.State, "task", id))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range left {
			if strings.HasPrefix(f.Name(), "exec-") {
				t.Errorf("left in the bundle: %s", f.Name())
			}
		}
	}
}

// TestExecSyncFair: a pod that floods the node with commands does not keep another pod's probe waiting for all of them.
func TestExecSyncFair(t *testing.T) {
	n := startStreamNode(t)
	flooding := n.run(nil, "sleep", "1000")
	pc := n.HostPodConfig()
	pod := n.RunPod(pc)
	quiet := n.Run(pod, pc, n.ContainerConfig(n.ref, "sleep", "1000"))
	ctx, stop := context.WithCancel(n.Ctx())
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			for ctx.Err() == nil {
				_, _, _ = n.Runtime.ExecSync(ctx, flooding, []string{"true"}, time.Minute)
			}
		})
	}
	var worst time.Duration
	for range 10 {
		started := time.Now()
		if _, _, err := n.Runtime.ExecSync(n.Ctx(), quiet, []string{"true"}, time.Minute); err != nil {
			t.Error(err)
		}
		worst = max(worst, time.Since(started))
	}
	stop()
	wg.Wait()
	t.Logf("100 callers flood the node; the slowest of 10 probes of another pod took %v", worst.Round(time.Millisecond))
	if worst > 3*time.Second {
		t.Error("that is not fair")
	}
}
