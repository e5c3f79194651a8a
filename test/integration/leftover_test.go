// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

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
