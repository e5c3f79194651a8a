// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testenv"
	"github.com/embedcri/embedcri/internal/testnode"
)

// hangingRuntime is a runtime handler, "slow", whose creates and execs hang while a file is there. config is for the daemon; hang
// makes the file, and release removes it.
func hangingRuntime(t *testing.T) (config string, hang, release func()) {
	t.Helper()
	dir := t.TempDir()
	file, path := filepath.Join(dir, "hang"), filepath.Join(dir, "slow-runc")
	script := fmt.Sprintf("#!/bin/sh\ncase \" $* \" in *' create '*|*' exec '*) while [ -e %s ]; do sleep 0.05; done;; esac\nexec %s \"$@\"\n",
		file, testenv.RuncPath(t))
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	hang = func() {
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	release = func() { _ = os.Remove(file) }
	t.Cleanup(release) // whatever comes, the daemon must be able to clean up
	return fmt.Sprintf("[runtime.handlers.slow]\npath = %q\n", path), hang, release
}

// TestHangingRuntime: while one pod's runtime hangs in a create and in execs, all calls about others are as fast as before, and
// those that only ask about the hanging one too. EMBEDCRI_HANG says for how long it hangs at least. How fast calls are
// before is measured for as long: for seconds at a time a pod's life takes 4 or 12 ms here, whether anything hangs or not.
func TestHangingRuntime(t *testing.T) {
	config, hang, release := hangingRuntime(t)
	n := testnode.Start(t, testnode.Options{NoNetwork: true, Config: config})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	ctx := n.Ctx()
	pc, slowPC := n.HostPodConfig(), n.HostPodConfig()
	pod := n.RunPod(pc)
	ctr := n.Run(pod, pc, n.ContainerConfig(ref, "sleep", "100000"))
	slowPod, err := n.Runtime.RunPodSandbox(ctx, slowPC, "slow")
	if err != nil {
		t.Fatal(err)
	}
	execs := n.Run(slowPod, slowPC, n.ContainerConfig(ref, "sleep", "100000"))
	least := time.Duration(0)
	if v := os.Getenv("EMBEDCRI_HANG"); v != "" {
		if least, err = time.ParseDuration(v); err != nil {
			t.Fatal(err)
		}
	}
	about := []string{ctr, ctr} // whose status is asked for
	calls := everyCall(n, ref, pod, pc, func() []string { return about })
	before := medians(t, calls, 9, least)

	hang()
	var hanging sync.WaitGroup
	created := make(chan string, 1)
	hanging.Go(func() {
		cfg := n.ContainerConfig(ref, "sleep", "100000")
		cfg.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
		id, err := n.Runtime.CreateContainer(ctx, slowPod, cfg, slowPC)
		if err != nil {
			t.Errorf("create, after the hang: %v", err)
		}
		created <- id
	})
	for range 12 {
		hanging.Go(func() {
			if _, _, err := n.Runtime.ExecSync(ctx, execs, []string{"true"}, 2*time.Minute); err != nil {
				t.Errorf("exec, after the hang: %v", err)
			}
		})
	}
	about = []string{ctr, execs}
	began := time.Now()
	during := medians(t, calls, 9, least)
	took := time.Since(began)
	select {
	case id := <-created:
		t.Errorf("the create did not hang: %s", id)
	default:
	}
	release()
	hanging.Wait()
	for _, c := range calls {
		b, d := before[c.name], during[c.name]
		t.Logf("%-28s median %-9v while a runtime hangs %v", c.name, b.Round(10*time.Microsecond), d.Round(10*time.Microsecond))
		// As fast as before, on a machine that also does other things. A call that waits for the hanging one takes all of the time.
		if d > 4*b+250*time.Millisecond {
			t.Errorf("%s: median %v, and %v while a runtime hangs", c.name, b, d)
		}
	}
	t.Logf("the runtime hung for %v", took.Round(time.Second))
}

type timedCall struct {
	name string
	call func(ctx context.Context) error
}

// everyCall are the calls of a kubelet, to a pod and what it makes there. about says whose status it asks for.
func everyCall(n *testnode.Node, ref, pod string, pc *runtimeapi.PodSandboxConfig, about func() []string) []timedCall {
	rt, im := n.Runtime, n.Images
	return []timedCall{
		{"Status", func(ctx context.Context) error { _, err := rt.Status(ctx, true); return err }},
		{"ListPodSandbox", func(ctx context.Context) error { _, err := rt.ListPodSandbox(ctx, nil); return err }},
		{"ListContainers", func(ctx context.Context) error { _, err := rt.ListContainers(ctx, nil); return err }},
		{"PodSandboxStatus", func(ctx context.Context) error { _, err := rt.PodSandboxStatus(ctx, pod, true); return err }},
		{"ContainerStatus", func(ctx context.Context) error {
			for _, id := range about() {
				if _, err := rt.ContainerStatus(ctx, id, true); err != nil {
					return err
				}
			}
			return nil
		}},
		{"ListContainerStats", func(ctx context.Context) error { _, err := rt.ListContainerStats(ctx, nil); return err }},
		{"ListPodSandboxStats", func(ctx context.Context) error { _, err := rt.ListPodSandboxStats(ctx, nil); return err }},
		{"ListPodSandboxMetrics", func(ctx context.Context) error { _, err := rt.ListPodSandboxMetrics(ctx); return err }},
		{"ListImages", func(ctx context.Context) error { _, err := im.ListImages(ctx, nil); return err }},
		{"ImageStatus", func(ctx context.Context) error {
			_, err := im.ImageStatus(ctx, &runtimeapi.ImageSpec{Image: ref}, true)
			return err
		}},
		{"ExecSync", func(ctx context.Context) error {
			_, _, err := rt.ExecSync(ctx, about()[0], []string{"true"}, time.Minute)
			return err
		}},
		{"a container from create to rm", func(ctx context.Context) error { return comeAndGo(ctx, n, ref, pod, pc) }},
		{"a pod from run to rm", func(ctx context.Context) error {
			id, err := rt.RunPodSandbox(ctx, n.HostPodConfig(), "")
			if err == nil {
				err = rt.StopPodSandbox(ctx, id)
			}
			if err == nil {
				err = rt.RemovePodSandbox(ctx, id)
			}
			return err
		}},
	}
}

// comeAndGo takes a container from its creation to its removal.
func comeAndGo(ctx context.Context, n *testnode.Node, ref, pod string, pc *runtimeapi.PodSandboxConfig) error {
	cfg := n.ContainerConfig(ref, "sleep", "100000")
	cfg.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	id, err := n.Runtime.CreateContainer(ctx, pod, cfg, pc)
	if err == nil {
		err = n.Runtime.StartContainer(ctx, id)
	}
	if err == nil {
		err = n.Runtime.StopContainer(ctx, id, 0)
	}
	if err == nil {
		err = n.Runtime.RemoveContainer(ctx, id)
	}
	return err
}

// medians times each call, in rounds over all of them, and goes on until least is over.
func medians(t *testing.T, calls []timedCall, rounds int, least time.Duration) map[string]time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), least+time.Minute)
	defer cancel()
	took := map[string][]time.Duration{}
	for began, i := time.Now(), 0; i < rounds || time.Since(began) < least; i++ {
		for _, c := range calls {
			began := time.Now()
			if err := c.call(ctx); err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			took[c.name] = append(took[c.name], time.Since(began))
		}
	}
	out := map[string]time.Duration{}
	for name, d := range took {
		slices.Sort(d)
		out[name] = d[len(d)/2]
	}
	return out
}
