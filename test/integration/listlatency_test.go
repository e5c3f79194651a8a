// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testnode"
)

// podCount is how many pods the latency test has; EMBEDCRI_PODS=200 for the figures that the project states.
func podCount(t testing.TB) int {
	if v := os.Getenv("EMBEDCRI_PODS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return 30
}

// bytesOnly is a codec that counts the bytes of an answer and looks at none.
type bytesOnly struct{}

func (bytesOnly) Name() string                  { return "proto" }
func (bytesOnly) Marshal(v any) ([]byte, error) { return proto.Marshal(v.(proto.Message)) }
func (bytesOnly) Unmarshal(b []byte, v any) error {
	*v.(*int) = len(b)
	return nil
}

// TestListLatency measures list calls on a node with many pods: at rest, while pods come and go, and while a runtime hangs.
func TestListLatency(t *testing.T) {
	config, hang, release := hangingRuntime(t)
	n := testnode.Start(t, testnode.Options{Config: config})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	count := podCount(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()

	runOne := func(handler string) (pod, ctr string, err error) {
		pc := n.PodConfig()
		if pod, err = n.Runtime.RunPodSandbox(ctx, pc, handler); err != nil {
			return "", "", err
		}
		cfg := n.ContainerConfig(ref, "sleep", "100000")
		if ctr, err = n.Runtime.CreateContainer(ctx, pod, cfg, pc); err != nil {
			return pod, "", err
		}
		return pod, ctr, n.Runtime.StartContainer(ctx, ctr)
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := w; i < count; i += 4 {
				if _, _, err := runOne(""); err != nil {
					t.Errorf("pod %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}

	conn := dial(t, n)
	client := runtimeapi.NewRuntimeServiceClient(conn)
	calls := []struct {
		name   string
		target time.Duration // of the median, with 200 pods
		call   func() (items int, err error)
	}{
		{"ListPodSandbox", 2 * time.Millisecond, func() (int, error) {
			r, err := client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
			return len(r.GetItems()), err
		}},
		{"ListContainers", 2 * time.Millisecond, func() (int, error) {
			r, err := client.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
			return len(r.GetContainers()), err
		}},
		{"ListContainerStats", 15 * time.Millisecond, func() (int, error) {
			r, err := client.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{})
			return len(r.GetStats()), err
		}},
		{"ListPodSandboxStats", 15 * time.Millisecond, func() (int, error) {
			r, err := client.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{})
			return len(r.GetStats()), err
		}},
		{"ListPodSandboxMetrics", 20 * time.Millisecond, func() (int, error) {
			r, err := client.ListPodSandboxMetrics(ctx, &runtimeapi.ListPodSandboxMetricsRequest{})
			return len(r.GetPodMetrics()), err
		}},
		{"the same, not decoded", 20 * time.Millisecond, func() (int, error) { // what of it is the runtime's
			var n int
			err := conn.Invoke(ctx, runtimeapi.RuntimeService_ListPodSandboxMetrics_FullMethodName, &runtimeapi.ListPodSandboxMetricsRequest{}, &n,
				grpc.ForceCodec(bytesOnly{}))
			return n, err
		}},
	}
	measure := func(when string, repeat int) {
		t.Helper()
		for _, c := range calls {
			began := time.Now()
			if items, err := c.call(); err != nil || items < count {
				t.Errorf("%s: %d items, %v", c.name, items, err)
			}
			first := time.Since(began)
			took := make([]time.Duration, repeat)
			for i := range took {
				began := time.Now()
				if _, err := c.call(); err != nil {
					t.Error(err)
				}
				took[i] = time.Since(began)
			}
			slices.Sort(took)
			t.Logf("%-16s %-22s first %-8v median %-8v p95 %v", when, c.name, first.Round(10*time.Microsecond),
				took[repeat/2].Round(10*time.Microsecond), took[repeat*95/100].Round(10*time.Microsecond))
			// The targets are for an idle machine.
			if took[repeat/2] > 10*c.target {
				t.Errorf("%s, %s with %d pods: median %v, target %v", when, c.name, count, took[repeat/2], c.target)
			}
		}
	}
	measure("at rest", 41)

	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			pod, _, err := runOne("")
			if err == nil {
				err = n.Runtime.StopPodSandbox(ctx, pod)
			}
			if err == nil {
				err = n.Runtime.RemovePodSandbox(ctx, pod)
			}
			if err != nil {
				t.Errorf("come and go: %v", err)
				return
			}
		}
	})
	measure("pods come and go", 21)
	close(stop)
	wg.Wait()

	hang()
	started := make(chan error, 1)
	go func() { _, _, err := runOne("slow"); started <- err }()
	n.Eventually("the runtime hangs", func() error {
		ps, err := n.Runtime.ListPodSandbox(ctx, nil)
		if err != nil || len(ps) != count+1 {
			return fmt.Errorf("%d pods, %v", len(ps), err)
		}
		return nil
	})
	measure("runtime hangs", 21)
	select {
	case err := <-started:
		t.Errorf("the runtime did not hang: %v", err)
	default:
	}
	release()
	if err := <-started; err != nil {
		t.Errorf("after the hang: %v", err)
	}
}
