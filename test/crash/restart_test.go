// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testnode"
)

// TestRestartMany kills the daemon of a node with many running containers, of which some end before the next one is there. The
// first list of that one has to be right. EMBEDCRI_RESTART is how many there are (20; the target of 500 ms until the daemon serves
// again is for 200, on an idle machine).
func TestRestartMany(t *testing.T) {
	many := 20
	if s := os.Getenv("EMBEDCRI_RESTART"); s != "" {
		var err error
		if many, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	type one struct {
		id  string
		pid int
	}
	var mu sync.Mutex
	var all []one
	work := make(chan struct{})
	var makers sync.WaitGroup
	for range 4 {
		makers.Go(func() {
			for range work {
				pc := n.HostPodConfig()
				ctx := n.Ctx()
				pod, err := n.Runtime.RunPodSandbox(ctx, pc, "")
				if err != nil {
					t.Error(err)
					continue
				}
				cfg := n.ContainerConfig(ref, "sleep", "10000")
				cfg.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
				id, err := n.Runtime.CreateContainer(ctx, pod, cfg, pc)
				if err == nil {
					err = n.Runtime.StartContainer(ctx, id)
				}
				if err != nil {
					t.Error(err)
					continue
				}
				mu.Lock()
				all = append(all, one{id: id})
				mu.Unlock()
			}
		})
	}
	for range many {
		work <- struct{}{}
	}
	close(work)
	makers.Wait()
	if t.Failed() {
		t.FailNow()
	}
	ended := all[:many/10]
	for i := range ended {
		ended[i].pid = pidOf(t, n, ended[i].id)
	}
	var took []time.Duration
	const rounds = 5
	for round := range rounds {
		n.Kill()
		if round == 0 {
			for _, e := range ended {
				if err := unix.Kill(e.pid, unix.SIGKILL); err != nil {
					t.Error(err)
				}
			}
		}
		begun := time.Now()
		n.Launch()
		c := dial(t, n.Socket)
		r, err := c.ListContainers(context.Background(), &runtimeapi.ListContainersRequest{})
		took = append(took, time.Since(begun))
		if err != nil {
			t.Fatal(err)
		}
		_ = c.conn.Close()
		states := map[string]runtimeapi.ContainerState{}
		for _, c := range r.Containers {
			states[c.Id] = c.State
		}
		for i, o := range all {
			want := runtimeapi.ContainerState_CONTAINER_RUNNING
			if i < len(ended) {
				want = runtimeapi.ContainerState_CONTAINER_EXITED
			}
			if states[o.id] != want {
				t.Errorf("round %d, first list: container %s is %v, want %v", round, o.id, states[o.id], want)
			}
		}
	}
	n.Eventually("clients are back", func() error { _, err := n.Runtime.Version(n.Ctx(), ""); return err })
	for _, e := range ended {
		if s := n.Status(e.id); s.ExitCode != 137 {
			t.Errorf("killed while there was no daemon: %v", s)
		}
	}
	slices.Sort(took)
	t.Logf("%d containers: the first list was answered %v after the daemon was launched (median of %d; %v)", many, took[rounds/2].Round(time.Millisecond), rounds, took)
}

// pidOf returns the pid of a container's init.
func pidOf(t testing.TB, n *testnode.Node, id string) int {
	t.Helper()
	r, err := n.Runtime.ContainerStatus(n.Ctx(), id, true)
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		Pid json.Number `json:"pid"`
	}
	if err := json.Unmarshal([]byte(r.Info["info"]), &info); err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(info.Pid.String())
	if err != nil || pid <= 1 {
		t.Fatal(fmt.Errorf("verbose info has pid %q", info.Pid))
	}
	return pid
}
