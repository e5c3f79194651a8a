// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/tools/remotecommand"

	"github.com/embedcri/embedcri/internal/testnode"
)

// TestExecOfADeadDaemon: an exec whose daemon was killed has nobody to report to. The next daemon ends it, with what it has
// started, and keeps no slot of the tracer for it.
func TestExecOfADeadDaemon(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pc := n.HostPodConfig()
	pod := n.RunPod(pc)
	ctr := n.Run(pod, pc, n.ContainerConfig(ref, "sleep", "1000"))
	// One that ends well and leaves something in the background, which is to go on.
	if got := run(n, ctr, "sleep 555 >/dev/null 2>&1 & echo ok"); got != "ok" {
		t.Fatal(got)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Two levels of children, one of which leaves the session.
		_, _, _ = n.Runtime.ExecSync(context.Background(), ctr, []string{"sh", "-c", "setsid sleep 777 & sleep 777; :"}, time.Minute)
	}()
	count := func() int { return strings.Count(run(n, ctr, "ps -o args"), "sleep 777") }
	n.Eventually("exec runs", func() error {
		if c := count(); c < 2 {
			return fmt.Errorf("%d processes", c)
		}
		return nil
	})
	n.Kill()
	<-done
	n.Start()
	n.Eventually("exec is ended", func() error {
		if c := count(); c != 0 {
			return fmt.Errorf("%d processes", c)
		}
		return nil
	})
	if ps := run(n, ctr, "ps -o args"); !strings.Contains(ps, "sleep 555") {
		t.Errorf("what a finished exec had left in the background is gone: %s", ps)
	}
	if s := n.Status(ctr); s.State.String() != "CONTAINER_RUNNING" {
		t.Errorf("the container itself: %v", s.State)
	}
	n.Eventually("no slot is left to it", func() error {
		st, err := n.Runtime.Status(n.Ctx(), true)
		if err != nil {
			return err
		}
		var tracer struct{ Slots int }
		if err := json.Unmarshal([]byte(st.Info["tracer"]), &tracer); err != nil {
			return fmt.Errorf("verbose status %v: %w", st.Info, err)
		}
		if tracer.Slots != 1 {
			return fmt.Errorf("%d slots, want the container's alone", tracer.Slots)
		}
		return nil
	})
}

// TestExecFilesOfADeadDaemon: the streams and files of execs go when the next daemon starts, not when their container does at last,
// which may be in a year; nor does the keeper hold anything for them.
func TestExecFilesOfADeadDaemon(t *testing.T) {
	n := startStreamNode(t)
	id := n.run(nil, "sleep", "1000")
	files := func() []string {
		beside, _ := filepath.Glob(filepath.Join(n.State, "task", id, "exec-*"))
		temporary, _ := filepath.Glob(filepath.Join(n.State, "tmp", "*"))
		return append(beside, temporary...)
	}
	held := testnode.Descriptors(n.Keeper())
	var execs sync.WaitGroup
	for _, tty := range []bool{false, true} {
		var out output
		execs.Go(func() {
			in, _ := io.Pipe() // stays open
			_ = n.exec(context.Background(), transports[0], id, remotecommand.StreamOptions{Stdin: in, Stdout: &out, Tty: tty}, "sh", "-c", "echo up; sleep 777")
		})
		n.has(&out, "up")
	}
	execs.Go(func() {
		_, _, _ = n.Runtime.ExecSync(context.Background(), id, []string{"sleep", "777"}, time.Minute)
	})
	n.Eventually("execs are under way", func() error {
		if len(files()) < 5 { // two have streams, and each says that it is running
			return fmt.Errorf("files %q", files())
		}
		return nil
	})
	n.Kill()
	execs.Wait()
	n.Start()
	n.Eventually("nothing is left of them", func() error {
		if left, now := files(), testnode.Descriptors(n.Keeper()); len(left) > 0 || now != held {
			return fmt.Errorf("files %q, the keeper holds %d descriptors, %d before", left, now, held)
		}
		return nil
	})
	if s := n.Status(id); s.State.String() != "CONTAINER_RUNNING" {
		t.Errorf("the container itself: %v", s.State)
	}
}
