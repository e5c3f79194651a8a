// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testnode"
)

const (
	stormShort  = 20 * time.Second // unless EMBEDCRI_STORM says otherwise
	stormPods   = 40
	callPatient = 3 * time.Minute // for one call, restarts of the daemon included
)

// storm is a node under load whose daemon is killed again and again.
type storm struct {
	t             *testing.T
	n             *testnode.Node
	image         string
	update        string // directory of another version's programs
	until         time.Time
	seed          uint64
	lives, calls  atomic.Int64
	again         atomic.Int64 // calls that were repeated, as there was no daemon
	lines, execs  atomic.Int64
	kills         int
	worst         time.Duration // from launching a daemon until it serves
	mu            sync.Mutex
	c             *client
	failures      map[string]int
	firstOfFailed []string
}

// TestStorm has 40 pods made, used, stopped and removed at once while the daemon is killed every few seconds, or told to end, and
// followed by one of another version, forth and back. No exit code may be wrong, no log line lost or doubled, nothing left, and no
// call may fail for another reason than that there is no daemon.
//
// EMBEDCRI_STORM is how long it takes (make storm: 3m), EMBEDCRI_SEED repeats the random part of a run.
func TestStorm(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	took, seed := stormShort, uint64(time.Now().UnixNano())
	if s := os.Getenv("EMBEDCRI_STORM"); s != "" {
		var err error
		if took, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	if s := os.Getenv("EMBEDCRI_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("EMBEDCRI_SEED=%d EMBEDCRI_STORM=%v", seed, took)
	s := &storm{t: t, seed: seed, image: registry.Ref(t, "busybox:1"), failures: map[string]int{}}
	s.n = testnode.Start(t, testnode.Options{KeepFailed: os.Getenv("EMBEDCRI_KEEP") != ""})
	s.n.Pull(s.image)
	s.update = testnode.BuildVersion(t, "99.0.0-storm")
	s.c = dial(t, s.n.Socket)
	s.life(rand.New(rand.NewPCG(seed, 0)), true) // makes what stays: the bridge, directories
	was := s.n.Quiet()
	fds, keeperFDs := testnode.Descriptors(s.n.Pid()), testnode.Descriptors(s.n.Keeper())

	s.until = time.Now().Add(took)
	var drivers sync.WaitGroup
	for i := range stormPods {
		drivers.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i+1)))
			for time.Now().Before(s.until) && !t.Failed() {
				s.life(r, i%4 == 0)
			}
		})
	}
	done := make(chan struct{})
	go func() { drivers.Wait(); close(done) }()
	s.kill(done)
	<-done

	t.Logf("%d lives of pods, %d calls (%d repeated as there was no daemon), %d execs, %d log lines, %d daemons ended, the slowest served after %v",
		s.lives.Load(), s.calls.Load(), s.again.Load(), s.execs.Load(), s.lines.Load(), s.kills, s.worst.Round(time.Millisecond))
	for what, n := range s.failures {
		t.Errorf("%d times: %s", n, what)
	}
	for _, f := range s.firstOfFailed {
		t.Log(f)
	}
	if err := s.n.Settled(was, nil, 30*time.Second); err != nil {
		t.Errorf("left behind: %v", err)
	}
	// The descriptors of the last daemon are those of the first; gRPC's own come and go.
	s.n.Eventually("descriptors", func() error {
		if now := testnode.Descriptors(s.n.Pid()); now > fds+2 {
			return fmt.Errorf("%d descriptors in the daemon, %d before", now, fds)
		}
		if now := testnode.Descriptors(s.n.Keeper()); now > keeperFDs {
			return fmt.Errorf("%d descriptors in the keeper, %d before", now, keeperFDs)
		}
		return nil
	})
	s.n.UsePrograms("")
	a := &actor{t: t, n: s.n, c: s.c}
	a.wantNoLeases(t)
}

// kill ends the daemon at random moments, and starts the next one, until done.
func (s *storm) kill(done <-chan struct{}) {
	r := rand.New(rand.NewPCG(s.seed, 1000))
	for {
		select {
		case <-done:
			return
		case <-time.After(time.Duration(500+r.IntN(4000)) * time.Millisecond):
		}
		if time.Now().After(s.until) {
			<-done
			return
		}
		if r.IntN(5) == 0 {
			s.n.Term()
		} else {
			s.n.Kill()
		}
		s.kills++
		s.n.UsePrograms([]string{"", s.update}[s.kills%2])        // forth and back
		time.Sleep(time.Duration(r.IntN(200)) * time.Millisecond) // what ends now ends without a daemon
		begun := time.Now()
		s.n.Launch()
		s.worst = max(s.worst, time.Since(begun))
		c := dial(s.t, s.n.Socket)
		s.mu.Lock()
		old := s.c
		s.c = c
		s.mu.Unlock()
		s.t.Cleanup(func() { _ = old.conn.Close() }) // not now: a call on it has to fail as the daemon's death has it
	}
}

func (s *storm) client() *client {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.c
}

func (s *storm) fail(what, detail string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures[what]++
	if len(s.firstOfFailed) < 20 {
		s.firstOfFailed = append(s.firstOfFailed, what+": "+detail)
	}
}

// call makes a call, and again as long as there is no daemon to answer it.
func (s *storm) call(name string, f func(context.Context, *client) error) bool {
	ctx, cancel := context.WithTimeout(context.Background(), callPatient)
	defer cancel()
	s.calls.Add(1)
	for {
		c := s.client()
		err := f(ctx, c)
		if err == nil {
			return true
		}
		if status.Code(err) != codes.Unavailable {
			s.fail(name+" fails with "+status.Code(err).String(), err.Error())
			return false
		}
		s.again.Add(1)
		for s.client() == c && ctx.Err() == nil {
			time.Sleep(2 * time.Millisecond) // poll for the next daemon
		}
	}
}

// life is the whole life of one pod.
func (s *storm) life(r *rand.Rand, withNetwork bool) {
	pc := s.n.HostPodConfig()
	if withNetwork {
		pc = s.n.PodConfig()
	}
	var pod string
	if !s.call("RunPodSandbox", func(ctx context.Context, c *client) error {
		resp, err := c.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: pc})
		pod = resp.GetPodSandboxId()
		return err
	}) {
		return
	}
	var ctrs sync.WaitGroup
	for range 1 + r.IntN(2) {
		one := rand.New(rand.NewPCG(r.Uint64(), 0))
		ctrs.Go(func() { s.container(one, pod, pc) })
	}
	ctrs.Wait()
	if r.IntN(3) > 0 { // else removing has to stop it
		s.call("StopPodSandbox", func(ctx context.Context, c *client) error {
			_, err := c.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod})
			return err
		})
	}
	s.call("RemovePodSandbox", func(ctx context.Context, c *client) error {
		_, err := c.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod})
		return err
	})
	s.lives.Add(1)
}

// container is the life of one container. It logs numbered lines, some of them while there is no daemon, and ends by itself, when it
// is asked to, or when it is killed.
func (s *storm) container(r *rand.Rand, pod string, pc *runtimeapi.PodSandboxConfig) {
	kind, lines, code := r.IntN(3), r.IntN(200), int32(1+r.IntN(120))
	const byItself, asked, killed = 0, 1, 2
	script := fmt.Sprintf("trap 'exit %d' TERM; i=0; while [ $i -lt %d ]; do echo line $i; i=$((i+1)); [ $((i%%20)) = 0 ] && sleep 0.05; done; ", code, lines)
	if kind == byItself {
		script += fmt.Sprintf("exit %d", code)
	} else {
		script += "echo ready; sleep 1000 & wait"
	}
	cfg := s.n.ContainerConfig(s.image, "sh", "-c", script)
	cfg.Linux.SecurityContext.NamespaceOptions.Network = pc.Linux.SecurityContext.NamespaceOptions.Network
	var id string
	if !s.call("CreateContainer", func(ctx context.Context, c *client) error {
		resp, err := c.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: cfg, SandboxConfig: pc})
		id = resp.GetContainerId()
		return err
	}) {
		return
	}
	if !s.call("StartContainer", func(ctx context.Context, c *client) error {
		_, err := c.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id})
		return err
	}) {
		return
	}
	log := &stormLog{path: s.status(id).GetLogPath(), lines: lines, ready: kind != byItself}
	if kind != byItself {
		if !log.await(time.Minute) {
			s.fail("a log is not complete", fmt.Sprintf("container %s: %s", id, log.check()))
		}
		s.exec(r, id)
		if r.IntN(2) == 0 && log.rotate() {
			s.call("ReopenContainerLog", func(ctx context.Context, c *client) error {
				_, err := c.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id})
				return err
			})
		}
		grace := int64(30)
		if kind == killed {
			grace, code = 0, 137
		}
		s.call("StopContainer", func(ctx context.Context, c *client) error {
			_, err := c.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: grace})
			return err
		})
	}
	var st *runtimeapi.ContainerStatus
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if st = s.status(id); st.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED || time.Now().After(deadline) {
			break
		}
	}
	if st.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || st.GetExitCode() != code {
		s.fail("a wrong exit", fmt.Sprintf("container %s: want %d, got %v", id, code, st))
	}
	if wrong := log.check(); wrong != "" {
		s.fail("a wrong log", fmt.Sprintf("container %s: %s", id, wrong))
	}
	s.lines.Add(int64(lines))
	if r.IntN(3) == 0 {
		return // its pod's removal takes it along
	}
	s.call("RemoveContainer", func(ctx context.Context, c *client) error {
		_, err := c.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id})
		return err
	})
}

func (s *storm) exec(r *rand.Rand, id string) {
	code := int32(r.IntN(200))
	s.execs.Add(1)
	s.call("ExecSync", func(ctx context.Context, c *client) error {
		resp, err := c.ExecSync(ctx, &runtimeapi.ExecSyncRequest{
			ContainerId: id, Cmd: []string{"sh", "-c", fmt.Sprintf("echo hi; exit %d", code)}, Timeout: 120,
		})
		if err == nil && (resp.ExitCode != code || string(resp.Stdout) != "hi\n") {
			s.fail("a wrong exec", fmt.Sprintf("want %d, got %v", code, resp))
		}
		return err
	})
}

func (s *storm) status(id string) (st *runtimeapi.ContainerStatus) {
	s.call("ContainerStatus", func(ctx context.Context, c *client) error {
		resp, err := c.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
		st = resp.GetStatus()
		return err
	})
	return st
}
