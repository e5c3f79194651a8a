// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/ctxlock"
	"github.com/embedcri/embedcri/internal/failpoint"
	"github.com/embedcri/embedcri/pkg/ioattach"
	"github.com/embedcri/embedcri/pkg/spec"
	"github.com/embedcri/embedcri/pkg/task"
)

// Container is one container of a pod. Its exported methods may be called by many goroutines at once.
type Container struct {
	p       *Pod
	meta    containerIdentity // never changes
	digest  digest            // of the request that made it
	task    *task.Task
	op      *ctxlock.Lock // serialises removals
	removed atomic.Bool
	stages  []Stage // of its making, if it was this daemon that made it
}

// ID returns the container's id.
func (c *Container) ID() string { return c.meta.ID }

// Pod returns the container's pod.
func (c *Container) Pod() *Pod { return c.p }

// Config returns the configuration the container was made with. It must not be changed.
func (c *Container) Config() *runtimeapi.ContainerConfig { return c.meta.Config.M }

// ImageID returns the id of the image, as PullImage and ImageStatus give it.
func (c *Container) ImageID() string { return c.meta.ImageID }

// ImageRef returns the name by digest that the image had when the container was made; its id if it had none.
func (c *Container) ImageRef() string { return c.meta.ImageRef }

// LogPath returns the absolute path of the log; empty if the container has none.
func (c *Container) LogPath() string { return c.meta.LogPath }

// CreatedAt is when the container was made.
func (c *Container) CreatedAt() time.Time { return c.meta.CreatedAt }

// Status returns what is known of the container's process. It never waits. One whose identity is lost is unknown until it is over,
// however well its process is known: nobody can tell what it was meant to be.
func (c *Container) Status() task.Status {
	s := c.task.Status()
	if c.meta.Lost && s.Exit == nil {
		s.State = task.Unknown
	}
	return s
}

// Mounts returns the mounts that were asked for; those of images with the id of the image.
func (c *Container) Mounts() []*runtimeapi.Mount {
	mounts := slices.Clone(c.Config().GetMounts())
	n := 0
	for i, m := range mounts {
		if m.GetImage() == nil || n == len(c.meta.VolumeIDs) {
			continue
		}
		mounts[i] = proto.CloneOf(m)
		mounts[i].Image.ImageRef = c.meta.VolumeIDs[n]
		n++
	}
	return mounts
}

// User returns who the container's first process was started as.
func (c *Container) User() *runtimeapi.ContainerUser {
	u := c.meta.User
	groups := make([]int64, len(u.Groups))
	for i, g := range u.Groups {
		groups[i] = int64(g)
	}
	return &runtimeapi.ContainerUser{Linux: &runtimeapi.LinuxContainerUser{
		Uid: int64(u.UID), Gid: int64(u.GID), SupplementalGroups: groups,
	}}
}

// Resources returns the limits that the container really has.
func (c *Container) Resources() *runtimeapi.ContainerResources {
	r, oom := c.task.Resources()
	if r == nil {
		return nil
	}
	return &runtimeapi.ContainerResources{Linux: spec.Resources(r, oom)}
}

// StopSignal returns the signal that asks the container to stop, as the CRI names it.
func (c *Container) StopSignal() runtimeapi.Signal { return criSignal(unix.Signal(c.meta.Signal)) }

// Verbose returns what the status call adds for people: facts by name.
func (c *Container) Verbose() map[string]string {
	s := c.task.Status()
	v := map[string]string{
		"state":   s.State.String(),
		"pid":     fmt.Sprint(s.Pid),
		"bundle":  c.p.m.tasks.Dir(c.meta.ID),
		"handler": c.meta.Handler,
	}
	if cg := c.task.Cgroup(); cg != nil {
		v["cgroup"] = cg.Path()
	}
	exitFacts(v, s.Exit)
	stages := []map[string]string{} // a list keeps their order
	for _, st := range c.stages {
		stages = append(stages, map[string]string{"name": st.Name, "took": st.Took.String()})
	}
	if b, err := json.Marshal(stages); err == nil {
		v["stages"] = string(b)
	}
	if kills, ok := c.task.OOMKills(); ok {
		v["oomKills"] = fmt.Sprint(kills) // of any process in the container; whether init was one of them is the reason's to say
	}
	if spec, err := os.ReadFile(filepath.Join(c.p.m.tasks.Dir(c.meta.ID), "config.json")); err == nil {
		v["runtimeSpec"] = string(spec) // by this name scripts know it from other runtimes
	}
	return v
}

// exitFacts adds what is known of the container's end, in words rather than numbers where there are words.
func exitFacts(v map[string]string, x *task.Exit) {
	if x == nil {
		return
	}
	v["exitSource"] = x.Source
	if !x.Known || !x.Wait.Signaled() {
		return
	}
	v["exitSignal"] = task.SignalName(x.Wait.Signal())
	v["coreDumped"] = fmt.Sprint(x.Wait.CoreDump())
	k := x.Killer
	switch {
	case k == nil:
		return
	case k.Kernel:
		v["killedBy"] = "kernel"
	default:
		comm, _ := json.Marshal(k.Comm) // a process names itself: it could pass for a number, or for JSON
		v["killedBy"] = "process"
		v["killerPid"], v["killerUID"], v["killerComm"] = fmt.Sprint(k.Pid), fmt.Sprint(k.UID), string(comm)
		v["killerCgroupID"], v["killerInContainer"] = fmt.Sprint(k.CgroupID), fmt.Sprint(x.ByOwn())
	}
	v["killedAt"] = k.At.UTC().Format(time.RFC3339Nano)
}

// Start starts the container's program.
func (c *Container) Start(ctx context.Context) error {
	if s := c.p.Status(); !s.Ready {
		return fmt.Errorf("start container %s: its pod is %s: %w", c.meta.ID, s.State, errdefs.ErrFailedPrecondition)
	}
	return c.task.Start(ctx)
}

// Stop asks the container to stop, and kills it when grace is over. Stopping a stopped container succeeds.
func (c *Container) Stop(ctx context.Context, grace time.Duration) error {
	return c.task.Stop(ctx, unix.Signal(c.meta.Signal), grace)
}

// Remove removes the container, killing it if it runs. Removing a removed container succeeds. The log stays: it is the kubelet's.
func (c *Container) Remove(ctx context.Context) error {
	if err := c.op.Lock(ctx); err != nil {
		return fmt.Errorf("remove container %s: %w", c.meta.ID, err)
	}
	defer c.op.Unlock()
	if c.removed.Load() {
		return nil
	}
	if err := c.task.Stop(ctx, unix.SIGKILL, 0); err != nil {
		return fmt.Errorf("remove container %s: %w", c.meta.ID, err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unmakeTimeout)
	defer cancel()
	if err := c.p.m.o.Images.RemoveRootfs(ctx, c.meta.ID, c.p.m.tasks.Rootfs(c.meta.ID)); err != nil {
		return fmt.Errorf("remove container %s: %w", c.meta.ID, err)
	}
	if err := c.p.m.unmountVolumes(ctx, c.meta); err != nil {
		return fmt.Errorf("remove container %s: %w", c.meta.ID, err)
	}
	if err := c.task.Delete(ctx); err != nil {
		return err
	}
	if err := failpoint.ContainerRecordGone.Do(func() error { return c.p.m.ctrRecs.Delete(c.meta.ID) }); err != nil {
		return fmt.Errorf("remove container %s: %w", c.meta.ID, err)
	}
	c.p.m.levels.Release(c.meta.Labels)
	c.removed.Store(true)
	c.p.forget(c)
	c.p.m.stats.Forget(c.meta.ID)
	c.p.m.events.deleted(c.meta.ID)
	return nil
}

// adopt puts c into the maps through which it is found.
func (p *Pod) adopt(c *Container) {
	p.mu.Lock()
	p.containers[c.meta.ID] = c
	p.names[containerKey(p.meta.ID, c.Config().GetMetadata())] = c
	p.mu.Unlock()
	p.m.mu.Lock()
	p.m.containers[c.meta.ID] = c
	p.m.mu.Unlock()
}

func (p *Pod) forget(c *Container) {
	p.mu.Lock()
	delete(p.containers, c.meta.ID)
	if key := containerKey(p.meta.ID, c.Config().GetMetadata()); p.names[key] == c {
		delete(p.names, key)
	}
	p.mu.Unlock()
	p.m.mu.Lock()
	delete(p.m.containers, c.meta.ID)
	p.m.mu.Unlock()
}

// Attach connects a client to the streams of the running container, until the client leaves or the container ends.
func (c *Container) Attach(ctx context.Context, client ioattach.Client) error {
	if s := c.Status(); s.State != task.Running {
		return fmt.Errorf("attach to container %s: it is %s, not running: %w", c.meta.ID, s.State, errdefs.ErrFailedPrecondition)
	}
	s := c.task.Streams()
	if s == nil {
		return fmt.Errorf("attach to container %s: its streams are lost: %w", c.meta.ID, errdefs.ErrUnavailable)
	}
	return s.Attach(ctx, client)
}

// ReopenLog makes the log be written to a new file at its path, the old one having been renamed. "If the container is not running,
// container runtime can choose to either create a new log file and return nil, or return an error" (api.proto); this one returns
// ErrFailedPrecondition, and creates no file.
func (c *Container) ReopenLog(context.Context) error {
	s := c.task.Streams()
	if st := c.Status(); st.State != task.Running || s == nil {
		return fmt.Errorf("reopen log of container %s: it is %s, not running: %w", c.meta.ID, st.State, errdefs.ErrFailedPrecondition)
	}
	return failpoint.LogReopen.Do(s.ReopenLog)
}

// Update changes the container's limits, whether it runs or has yet to be started. Nothing is changed if the runtime refuses.
func (c *Container) Update(ctx context.Context, r *runtimeapi.LinuxContainerResources) error {
	return c.task.Update(ctx, func(now *specs.LinuxResources) (*specs.LinuxResources, error) {
		return spec.Update(now, r, c.p.m.o.Node)
	})
}

// Pause freezes the container's processes, for somebody who wants to look at them; Resume lets them run on.
func (c *Container) Pause(ctx context.Context) error { return c.task.Pause(ctx) }

// Resume takes back Pause.
func (c *Container) Resume(ctx context.Context) error { return c.task.Resume(ctx) }

// criSignal is the CRI's name of a signal; those it has no name for, it calls by the runtime's default. Of two names for one
// signal (SIGCHLD, SIGCLD) it is the one that the kernel's headers prefer.
func criSignal(sig unix.Signal) runtimeapi.Signal {
	found := runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT
	for v, name := range runtimeapi.Signal_name {
		s, err := spec.StopSignal("", runtimeapi.Signal(v))
		if err != nil || s != sig || v == int32(runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT) {
			continue
		}
		if name == "SIGNAL_"+unix.SignalName(sig) {
			return runtimeapi.Signal(v)
		}
		found = runtimeapi.Signal(v)
	}
	return found
}
