// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/failpoint"
	"github.com/embedcri/embedcri/internal/testnode"
)

// actor makes calls to a node whose daemon has been ordered to fail once. A call that fails for that is looked into (the state has
// to be an allowed one) and repeated, upon which it has to succeed.
type actor struct {
	t     testing.TB
	n     *testnode.Node
	c     *client
	order string // the failpoint file

	image, volume string          // references
	kept          map[string]bool // blobs of these two
	pod           string          // of containers
	pc            *runtimeapi.PodSandboxConfig
	next          int
	mortal        bool // the daemon that runs is the one that the last order was given to
	slow          bool // the exit code may tell of SIGKILL: the signal that the order is about was not sent
}

const callTimeout = 30 * time.Second

// arm orders the daemon to fail at a step.
func (a *actor) arm(s failpoint.Step, when, mode string) {
	a.t.Helper()
	_ = os.Remove(a.order + ".hit")
	a.mortal = true
	if err := os.WriteFile(a.order, fmt.Appendf(nil, "%s %s %s\n", s, when, mode), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

func (a *actor) wasHit() bool { _, err := os.Stat(a.order + ".hit"); return err == nil }

// killed tells whether an order to kill has been carried out on the daemon that runs.
func (a *actor) killed() bool {
	hit, err := os.ReadFile(a.order + ".hit")
	return a.mortal && err == nil && strings.HasSuffix(strings.TrimSpace(string(hit)), " "+failpoint.Kill)
}

// awaitDeath waits for a daemon that has been killed, or whose connections broke: they do before it is seen to be gone.
func (a *actor) awaitDeath() {
	select {
	case <-a.n.Died():
	case <-time.After(5 * time.Second):
	}
}

// alive starts the daemon again if it has died.
func (a *actor) alive() (restarted bool) {
	if a.killed() {
		a.awaitDeath()
	}
	select {
	case <-a.n.Died():
	default:
		return false
	}
	a.mortal = false
	a.n.Launch()
	_ = a.c.conn.Close()
	a.c = dial(a.t, a.n.Socket)
	return true
}

// call makes one call, and makes it again if it failed because of the order. allowed looks at the state between the two.
func (a *actor) call(name string, f func(context.Context) error, allowed func()) {
	a.t.Helper()
	hit := a.wasHit()
	ctx, cancel := context.WithTimeout(a.n.Ctx(), callTimeout)
	defer cancel()
	err := f(ctx)
	if err == nil {
		return
	}
	if text := err.Error(); status.Code(err) == codes.Unavailable || strings.Contains(text, "EOF") || strings.Contains(text, "connection") {
		a.awaitDeath() // also of a panic in the background
	}
	died := a.alive()
	switch {
	case died: // in this call, or after the last one, in what goes on in the background
	case hit || !a.wasHit():
		a.t.Fatalf("%s fails, and not by order: %v", name, err)
	case strings.Contains(err.Error(), "panic") && status.Code(err) != codes.Internal && !strings.Contains(err.Error(), "internal"):
		a.t.Errorf("%s: a panic has code %v: %v", name, status.Code(err), err)
	case !strings.Contains(err.Error(), "injected by a test") && !strings.Contains(err.Error(), "panic"):
		a.t.Errorf("%s: the error does not say what went wrong: %v", name, err)
	}
	if allowed != nil {
		allowed()
	}
	if err := f(ctx); err != nil {
		a.t.Fatalf("%s, repeated: %v\n(first: died %v)", name, err, died)
	}
}

// runPod runs a pod.
func (a *actor) runPod(pc *runtimeapi.PodSandboxConfig) (id string) {
	a.t.Helper()
	list := func() (own []*runtimeapi.PodSandbox) {
		a.call("ListPodSandbox", func(ctx context.Context) error {
			r, err := a.c.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
			for _, p := range r.GetItems() {
				if p.Metadata.Uid == pc.Metadata.Uid {
					own = append(own, p)
				}
			}
			return err
		}, nil)
		return own
	}
	a.call("RunPodSandbox", func(ctx context.Context) error {
		r, err := a.c.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: pc})
		id = r.GetPodSandboxId()
		return err
	}, func() {
		if own := list(); len(own) > 1 {
			a.t.Errorf("after a failed RunPodSandbox: %v", own)
		}
	})
	if own := list(); len(own) != 1 || own[0].Id != id || own[0].State != runtimeapi.PodSandboxState_SANDBOX_READY {
		a.t.Errorf("after RunPodSandbox of %s: %v", id, own)
	}
	return id
}

func (a *actor) stopPod(id string) {
	a.t.Helper()
	a.call("StopPodSandbox", func(ctx context.Context) error {
		_, err := a.c.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
		return err
	}, nil)
	a.call("PodSandboxStatus", func(ctx context.Context) error {
		r, err := a.c.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
		if err == nil && r.Status.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
			a.t.Errorf("a stopped pod is %v", r.Status.State)
		}
		return err
	}, nil)
}

func (a *actor) removePod(id string) {
	a.t.Helper()
	a.call("RemovePodSandbox", func(ctx context.Context) error {
		_, err := a.c.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
		return err
	}, nil)
	a.wantAbsent(id)
}

func (a *actor) wantAbsent(id string) {
	a.t.Helper()
	a.call("lists", func(ctx context.Context) error {
		pods, err := a.c.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
		if err != nil {
			return err
		}
		ctrs, err := a.c.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
		if err != nil {
			return err
		}
		for _, p := range pods.Items {
			if p.Id == id {
				a.t.Errorf("removed pod is listed: %v", p)
			}
		}
		for _, c := range ctrs.Containers {
			if c.Id == id {
				a.t.Errorf("removed container is listed: %v", c)
			}
		}
		return nil
	}, nil)
}

// status returns a container's status.
func (a *actor) status(id string) (s *runtimeapi.ContainerStatus) {
	a.t.Helper()
	a.call("ContainerStatus", func(ctx context.Context) error {
		r, err := a.c.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
		s = r.GetStatus()
		return err
	}, nil)
	return s
}

// program says that it is ready, and ends with 7 when it is asked to.
const program = `trap 'echo bye; exit 7' TERM; echo ready; sleep 1000 & wait`

// config is that of a new container.
func (a *actor) config(command ...string) *runtimeapi.ContainerConfig {
	cfg := a.n.ContainerConfig(a.image, command...)
	cfg.Linux.SecurityContext.NamespaceOptions.Network = a.pc.Linux.SecurityContext.NamespaceOptions.Network
	return cfg
}

// create creates a container.
func (a *actor) create(cfg *runtimeapi.ContainerConfig) (id string) {
	a.t.Helper()
	list := func() (own []*runtimeapi.Container) {
		a.call("ListContainers", func(ctx context.Context) error {
			r, err := a.c.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
			for _, c := range r.GetContainers() {
				if c.Metadata.Name == cfg.Metadata.Name && c.Metadata.Attempt == cfg.Metadata.Attempt {
					own = append(own, c)
				}
			}
			return err
		}, nil)
		return own
	}
	a.call("CreateContainer", func(ctx context.Context) error {
		r, err := a.c.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: a.pod, Config: cfg, SandboxConfig: a.pc})
		id = r.GetContainerId()
		return err
	}, func() {
		if own := list(); len(own) > 1 || len(own) == 1 && own[0].State != runtimeapi.ContainerState_CONTAINER_CREATED {
			a.t.Errorf("after a failed CreateContainer: %v", own)
		}
	})
	if own := list(); len(own) != 1 || own[0].Id != id || own[0].State != runtimeapi.ContainerState_CONTAINER_CREATED {
		a.t.Errorf("after CreateContainer of %s: %v", id, own)
	}
	return id
}

// start starts a container that create has made. One that could not be started is over, as the field has it: then, as the kubelet
// does, another attempt is made, and its id returned.
func (a *actor) start(id string, cfg *runtimeapi.ContainerConfig) string {
	a.t.Helper()
	over := false
	start := func(ctx context.Context) error {
		if over {
			return nil
		}
		_, err := a.c.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id})
		return err
	}
	a.call("StartContainer", start, func() {
		s := a.status(id)
		switch s.State {
		case runtimeapi.ContainerState_CONTAINER_CREATED, runtimeapi.ContainerState_CONTAINER_RUNNING:
		case runtimeapi.ContainerState_CONTAINER_EXITED:
			over = true
			if s.Reason != "StartError" || s.ExitCode != 128 {
				a.t.Errorf("after a failed StartContainer: %v", s)
			}
		default:
			a.t.Errorf("after a failed StartContainer: %v", s)
		}
	})
	if over {
		a.remove(id)
		cfg.Metadata.Attempt++
		return a.start(a.create(cfg), cfg)
	}
	a.eventually("runs", func() error {
		if s := a.status(id); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			return fmt.Errorf("started container is %v", s)
		}
		return nil
	})
	a.waitLog(id, "ready")
	return id
}

func (a *actor) eventually(what string, f func() error) {
	a.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			a.t.Fatalf("%s: %v", what, err)
		}
	}
}

// waitLog waits for the last line of a container's log.
func (a *actor) waitLog(id, last string) {
	a.t.Helper()
	path := a.status(id).LogPath
	a.eventually("log", func() error {
		b, err := os.ReadFile(path)
		if err == nil && !strings.HasSuffix(string(b), " F "+last+"\n") {
			err = fmt.Errorf("log is %q, want %q at its end", b, last)
		}
		return err
	})
}

func (a *actor) remove(id string) {
	a.t.Helper()
	a.call("RemoveContainer", func(ctx context.Context) error {
		_, err := a.c.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id})
		return err
	}, nil)
	a.wantAbsent(id)
}

// stop stops a container and checks how it ended.
func (a *actor) stop(id string, grace int64, code int32) {
	a.t.Helper()
	a.call("StopContainer", func(ctx context.Context) error {
		_, err := a.c.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: grace})
		return err
	}, func() {
		s := a.status(id)
		if s.State != runtimeapi.ContainerState_CONTAINER_RUNNING && s.State != runtimeapi.ContainerState_CONTAINER_EXITED {
			a.t.Errorf("after a failed StopContainer: %v", s)
		}
	})
	s := a.status(id)
	if s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != code && !(a.slow && s.ExitCode == 137) {
		a.t.Errorf("stopped container: %v, want exit code %d", s, code)
	}
}

// exec runs a command to its end.
func (a *actor) exec(id string) {
	a.t.Helper()
	a.call("ExecSync", func(ctx context.Context) error {
		r, err := a.c.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "echo hi; exit 3"}, Timeout: 20})
		if err == nil && (r.ExitCode != 3 || string(r.Stdout) != "hi\n") {
			a.t.Errorf("exec: %v", r)
		}
		return err
	}, func() {
		if s := a.status(id); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			a.t.Errorf("after a failed ExecSync: %v", s)
		}
	})
}

// task runs `embedcri task`, whose errors have no codes.
func (a *actor) task(verb, id string) {
	a.t.Helper()
	a.call(verb, func(context.Context) error {
		out, err := a.n.Command("task", verb, id).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}, nil)
}
