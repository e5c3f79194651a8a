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

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testnode"
)

const (
	evCreated = runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT
	evStarted = runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT
	evStopped = runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT
	evDeleted = runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT
)

// listener collects events.
type listener struct {
	mu     sync.Mutex
	events []received
	err    error
}

type received struct {
	*runtimeapi.ContainerEventResponse
	at time.Time
}

// listen subscribes to a node's events, and returns when the subscription is there: a pod's event has come through it.
func listen(t testing.TB, n *testnode.Node) *listener {
	t.Helper()
	stream := subscribe(t, n)
	l := &listener{}
	go func() {
		for {
			e, err := stream.Recv()
			l.mu.Lock()
			if err != nil {
				l.err = err
				l.mu.Unlock()
				return
			}
			l.events = append(l.events, received{e, time.Now()})
			l.mu.Unlock()
		}
	}()
	return l
}

func subscribe(t testing.TB, n *testnode.Node) runtimeapi.RuntimeService_GetContainerEventsClient {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	stream, err := runtimeapi.NewRuntimeServiceClient(dial(t, n)).GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// of returns the types of events about one container, in the order in which they came.
func (l *listener) of(id string) (types []runtimeapi.ContainerEventType) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if e.ContainerId == id {
			types = append(types, e.ContainerEventType)
		}
	}
	return types
}

func (l *listener) find(id string, typ runtimeapi.ContainerEventType) *received {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if e.ContainerId == id && e.ContainerEventType == typ {
			return &e
		}
	}
	return nil
}

// settle makes sure that a listener is subscribed: it runs pods until it hears of one.
func settle(n *testnode.Node, ls ...*listener) {
	n.T.Helper()
	n.Eventually("subscription", func() error {
		pod := n.RunPod(n.HostPodConfig())
		time.Sleep(10 * time.Millisecond)
		for _, l := range ls {
			if l.find(pod, evCreated) == nil {
				return fmt.Errorf("no event of pod %s", pod)
			}
		}
		return nil
	})
}

// TestEventOrder has three subscribers, one of which never reads, and wants created, started, stopped and deleted of each container
// at the two others, with the pod's and the container's status.
func TestEventOrder(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	subscribe(t, n) // stuck
	ls := []*listener{listen(t, n), listen(t, n)}
	settle(n, ls...)
	pc := n.HostPodConfig()
	pod := n.RunPod(pc)
	want := []runtimeapi.ContainerEventType{evCreated, evStarted, evStopped, evDeleted}

	runs := 24
	if v := os.Getenv("EMBEDCRI_EVENTS"); v != "" { // 10,000 for the figure that the project states: 4 for each container
		events, err := strconv.Atoi(v)
		if err != nil {
			t.Fatal(err)
		}
		runs = events / 4
	}
	ids := make([]string, runs)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := w; i < runs; i += 4 {
				cfg := n.ContainerConfig(ref, "sh", "-c", fmt.Sprintf("exit %d", i%256))
				cfg.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
				id, err := n.Runtime.CreateContainer(n.Ctx(), pod, cfg, pc)
				if err == nil {
					ids[i] = id
					err = n.Runtime.StartContainer(n.Ctx(), id)
				}
				for err == nil && ls[0].find(id, evStopped) == nil {
					time.Sleep(time.Millisecond)
				}
				if err == nil {
					err = n.Runtime.RemoveContainer(n.Ctx(), id)
				}
				if err != nil {
					t.Errorf("run %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	if err := n.Runtime.StopPodSandbox(n.Ctx(), pod); err != nil {
		t.Error(err)
	}
	if err := n.Runtime.RemovePodSandbox(n.Ctx(), pod); err != nil {
		t.Error(err)
	}
	for _, l := range ls {
		for _, id := range append(ids, pod) {
			n.Eventually("events", func() error {
				if got := l.of(id); !slices.Equal(got, want) {
					return fmt.Errorf("container %s: %v", id, got)
				}
				return nil
			})
		}
		for i, id := range ids {
			e := l.find(id, evStopped)
			if e.PodSandboxStatus.GetId() != pod || e.PodSandboxStatus.GetMetadata().GetUid() != pc.Metadata.Uid || e.CreatedAt > e.at.UnixNano() {
				t.Errorf("%v", e)
			}
			// The statuses are those of when the event goes out. The first listener's came before the removal, which waited for it.
			k := slices.IndexFunc(e.ContainersStatuses, func(s *runtimeapi.ContainerStatus) bool { return s.Id == id })
			if k < 0 && l != ls[0] {
				continue
			}
			if k < 0 || e.ContainersStatuses[k].State != runtimeapi.ContainerState_CONTAINER_EXITED || e.ContainersStatuses[k].ExitCode != int32(i%256) {
				t.Errorf("container %d: statuses %v", i, e.ContainersStatuses)
			}
		}
		if l.err != nil {
			t.Errorf("the stream has ended: %v", l.err)
		}
	}
}

// TestEventLatency measures from the kernel's time of death to the event at a subscriber: at rest, and while other containers are
// made and removed one after the other.
func TestEventLatency(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	l := listen(t, n)
	settle(n, l)
	pc := n.HostPodConfig()
	pod := n.RunPod(pc)
	const runs = 30
	measure := func(when string) {
		t.Helper()
		var took, known, dead, told []time.Duration
		for range runs {
			e, died, seen := killed(n, l, n.Run(pod, pc, n.ContainerConfig(ref, "sleep", "1000")))
			took, known, dead = append(took, e.at.Sub(died)), append(known, time.Unix(0, e.CreatedAt).Sub(died)), append(dead, seen.Sub(died))
			told = append(told, e.at.Sub(seen))
		}
		for _, all := range [][]time.Duration{took, known, dead, told} {
			slices.Sort(all)
		}
		t.Logf("%s: from death (a pidfd of the test's tells) to event: median %v, p95 %v, max %v", when, told[runs/2], told[runs*95/100], told[runs-1])
		t.Logf("%s: from the beginning of the exit in the kernel to death: median %v; to the daemon's record of it: %v; to event: %v, p95 %v",
			when, dead[runs/2], known[runs/2], took[runs/2], took[runs*95/100])
		// The target, 2 ms and 10 ms, is for an idle machine; a test machine is not.
		if took[runs/2] > 50*time.Millisecond {
			t.Errorf("%s: median %v", when, took[runs/2])
		}
	}
	measure("at rest")

	stop := make(chan struct{})
	var wg sync.WaitGroup
	ctx := n.Ctx()
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := comeAndGo(ctx, n, ref, pod, pc); err != nil {
				t.Errorf("come and go: %v", err)
				return
			}
		}
	})
	measure("while others come and go")
	close(stop)
	wg.Wait()
}

// killed kills a container's process, waits for the event, and removes the container. died is when the kernel began to end it, seen
// when a pidfd of the test's own said that it was dead: what lies between, its memory and its mounts being taken down, is no
// runtime's to shorten, and a thread that is woken is as late as the daemon's.
func killed(n *testnode.Node, l *listener, id string) (e *received, died, seen time.Time) {
	n.T.Helper()
	pid := statusPid(n.T, n, id)
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		n.T.Fatal(err)
	}
	defer unix.Close(fd)
	var watch sync.WaitGroup
	defer watch.Wait()
	watching := make(chan struct{})
	watch.Go(func() {
		close(watching)
		for deadline := time.Now().Add(20 * time.Second); seen.IsZero() && time.Now().Before(deadline); {
			if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 1000); err == nil && n == 1 {
				seen = time.Now()
			}
		}
	})
	<-watching
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		n.T.Fatal(err)
	}
	n.Eventually("stopped event", func() error {
		if e = l.find(id, evStopped); e == nil {
			return fmt.Errorf("none")
		}
		return nil
	})
	died = time.Unix(0, n.Status(id).FinishedAt)
	if err := n.Runtime.RemoveContainer(n.Ctx(), id); err != nil {
		n.T.Fatal(err)
	}
	if watch.Wait(); seen.IsZero() {
		n.T.Fatalf("process %d does not end", pid)
	}
	return e, died, seen
}

// TestEventsOfDownTime: a container that ends while the daemon is dead is told to those who subscribe afterwards, one that lives
// and one that had ended long before are not.
func TestEventsOfDownTime(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pc := n.HostPodConfig()
	pod := n.RunPod(pc)
	ends := n.Run(pod, pc, n.ContainerConfig(ref, "sleep", "1000"))
	stays := n.Run(pod, pc, n.ContainerConfig(ref, "sleep", "1000"))
	v, err := n.Runtime.ContainerStatus(n.Ctx(), ends, true)
	if err != nil {
		t.Fatal(err)
	}
	before := listen(t, n)
	settle(n, before)
	n.Kill()
	pid := infoPid(t, v.Info)
	if err := unix.Kill(pid, unix.SIGTERM); err == nil {
		err = unix.Kill(pid, unix.SIGKILL) // pid 1 of a namespace ignores the first
		if err != nil {
			t.Fatal(err)
		}
	}
	waitGone(t, pid)
	n.Start()
	for range 2 {
		l := listen(t, n)
		n.Eventually("the stop of the down-time", func() error {
			if got := l.of(ends); !slices.Equal(got, []runtimeapi.ContainerEventType{evStopped}) {
				return fmt.Errorf("events %v", got)
			}
			return nil
		})
		e := l.find(ends, evStopped)
		if e.ContainersStatuses[0].ExitCode != 137 || e.PodSandboxStatus.GetId() != pod {
			t.Errorf("%v", e)
		}
		if got := l.of(stays); got != nil {
			t.Errorf("of the one that lives: %v", got)
		}
	}
	before.mu.Lock()
	defer before.mu.Unlock()
	if before.err == nil {
		t.Error("a stream to a dead daemon goes on")
	}
}
