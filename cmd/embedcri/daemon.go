// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"k8s.io/klog/v2"

	"github.com/embedcri/embedcri/internal/cgroup"
	"github.com/embedcri/embedcri/internal/namespace"
	"github.com/embedcri/embedcri/internal/orphan"
	"github.com/embedcri/embedcri/pkg/admin"
	"github.com/embedcri/embedcri/pkg/config"
	"github.com/embedcri/embedcri/pkg/cri"
	"github.com/embedcri/embedcri/pkg/exitbpf"
	"github.com/embedcri/embedcri/pkg/image"
	"github.com/embedcri/embedcri/pkg/ioattach"
	"github.com/embedcri/embedcri/pkg/network"
	"github.com/embedcri/embedcri/pkg/sandbox"
	"github.com/embedcri/embedcri/pkg/spec"
	"github.com/embedcri/embedcri/pkg/store"
	"github.com/embedcri/embedcri/pkg/task"
)

// minProcs is how many goroutines may run at once, however few processors the machine has.
const minProcs = 8

const (
	// orphanPatience is for how long programs of a killed daemon may go on before they are killed, too: an OCI runtime takes tens of
	// milliseconds for what it does.
	orphanPatience = 2 * time.Second
	// stopMost is how long a daemon that is asked to end takes at most. Calls under way have 5 s of it (cri.Options.StopGrace).
	stopMost = 15 * time.Second
)

// runDaemon builds everything, brings back what was there, and serves until ctx ends. Ending lets go of all containers: whether
// it is this or SIGKILL makes no difference to them.
func runDaemon(ctx context.Context, c *config.Config, _ []string) error {
	if err := c.Validate(); err != nil {
		return err
	}
	started := time.Now()
	resetSignals()
	collect := uncollected()
	// Starting a program holds one of Go's processors until the child has called execve(2) (vfork), which takes milliseconds. With
	// as few as the machine has, an exit that comes meanwhile is told that much later: 12 ms rather than 3 on two processors.
	runtime.GOMAXPROCS(max(minProcs, runtime.GOMAXPROCS(0)))
	for _, dir := range []string{c.Root, c.State, c.PodDir(), filepath.Dir(c.Socket)} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	unlock, err := lockDir(c.State) // two daemons on one state directory would undo each other's work
	if err != nil {
		return err
	}
	defer unlock()
	if n, err := orphan.End(ctx, c.State, orphanPatience); err != nil {
		return err
	} else if n > 0 {
		klog.Background().Info("waited for programs of a daemon that was killed", "programs", n, "took", time.Since(started).Round(time.Millisecond))
	}
	if err := orphan.Mark(c.State); err != nil {
		return err
	}
	if err := useScratchDir(c); err != nil {
		return err
	}

	// Beside the tracer's, which takes the longest.
	openedImages := later(func() (*image.Store, error) { return image.Open(imageOptions(c)) })
	openedNetwork := later(func() (*network.Network, error) { return network.Open(ctx, networkOptions(c)) })
	programs := later(func() (map[string]runtimeProgram, error) { return runtimePrograms(c) })
	tracer, err := exitbpf.Open(exitbpf.Options{Dir: c.BPF, Capacity: c.Exit.Capacity, Require: c.Exit.Require})
	if err != nil {
		return fmt.Errorf("exit tracer: %w", err)
	}
	defer tracer.Close()
	reaper, err := task.NewReaper(tracer.Owns)
	if err != nil {
		return err
	}
	defer reaper.Close()
	keeper, err := openKeeper(ctx, c)
	if err != nil {
		return fmt.Errorf("keeper: %w", err)
	}
	defer keeper.Close()
	hub, err := ioattach.New(ioattach.HubOptions{Dir: filepath.Join(c.State, "io"), Keeper: keeper})
	if err != nil {
		return fmt.Errorf("streams: %w", err)
	}
	defer hub.Close()
	records, err := store.Open(c.RecordDir())
	if err != nil {
		return err
	}
	images, err := openedImages()
	if err != nil {
		return fmt.Errorf("images: %w", err)
	}
	defer images.Close()
	cni, err := openedNetwork()
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	defer cni.Close()
	if err := namespace.Prepare(c.NamespaceDir()); err != nil {
		return err
	}
	node, err := spec.DetectNode()
	if err != nil {
		return err
	}
	if err := spec.LoadAppArmor(node); err != nil { // nothing to do where there is no AppArmor
		return err
	}
	systemd := useSystemd(c)
	asked, err := programs()
	if err != nil {
		return err
	}
	runtimes, handlers, err := runtimes(c, asked, systemd, node, hub)
	if err != nil {
		return err
	}
	cdi, err := spec.OpenCDI(c.CDI.SpecDirs...)
	if err != nil {
		return err
	}
	defer cdi.Close()
	podInit, err := siblingProgram("embedcri-pod-init")
	if err != nil {
		return err
	}
	degraded := ""
	if !tracer.Mode().BPF {
		degraded = tracer.Mode().String()
		klog.Background().Info("exit tracer is degraded", "why", degraded)
	}
	pods, err := sandbox.New(sandbox.Options{
		Records: records, Images: images, Network: cni, CDI: cdi, Node: node,
		Tasks: task.Options{
			Dir: c.TaskDir(), Exits: task.TracerExits(tracer), Streams: hub, Runtimes: runtimes, Reaper: reaper,
		},
		Handlers: handlers, Default: c.Runtime.Default,
		PodDir: c.PodDir(), NamespaceDir: c.NamespaceDir(),
		CgroupParent: cgroupParent(c, systemd), Systemd: systemd,
		ImageVolumes: c.Image.Volumes, ShmSize: c.Pod.ShmSize, DrainTimeout: time.Duration(c.Exec.DrainTimeout), PodInit: podInit, EveryPodInit: c.Pod.Init,
		Sysctls: podSysctls(c), RuntimeError: degraded,
	})
	if err != nil {
		return err
	}
	defer pods.Close()
	if err := pods.Recover(ctx); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	driver := "cgroupfs"
	if systemd {
		driver = "systemd"
	}
	streaming, err := streamingOptions(c)
	if err != nil {
		return err
	}
	server, err := cri.New(cri.Options{
		Pods: pods, Images: images, Version: Version, CgroupDriver: driver,
		Info: func() map[string]any {
			return map[string]any{
				"config": c, "tracer": tracer.Stats(), "tracerMode": tracer.Mode().String(),
				"pid": os.Getpid(), "goroutines": runtime.NumGoroutine(),
			}
		},
		LayerDir:  c.ImageDir(),
		Streaming: streaming,
	})
	if err != nil {
		return err
	}
	waitMetrics, err := serveMetrics(ctx, c.Metrics.Address, &metrics{tracer, hub, images, pods, server})
	if err != nil {
		return errors.Join(err, server.Close())
	}
	defer waitMetrics()
	waitAdmin, err := serveAdmin(ctx, c, admin.NewServer(pods, images))
	if err != nil {
		return errors.Join(err, server.Close())
	}
	defer waitAdmin()
	listener, err := listen(c.Socket)
	if err != nil {
		return errors.Join(err, server.Close())
	}
	collect()
	klog.Background().Info("serving", "socket", c.Socket, "version", Version, "tracer", tracer.Mode().String(),
		"pods", len(pods.Pods()), "containers", len(pods.Containers()), "took", time.Since(started).Round(time.Millisecond))
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady) // nobody to notify is not an error
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	context.AfterFunc(ctx, func() {
		// Whatever hangs, a plug-in or a disk: the next daemon deals with it, as after a kill.
		time.AfterFunc(stopMost, func() {
			klog.Background().Info("not everything could be let go of in time; leaving", "after", stopMost)
			klog.Flush()
			os.Exit(0)
		})
		pods.Quiesce() // before clients are cut off
		stop()
	})
	return server.Serve(serving, listener)
}

// uncollected keeps the garbage collector away until collect is called, or the heap gets large. What a start leaves behind, 30 MB of
// kernel types for the most part, goes in one collection afterwards; several while clients wait took a tenth of the time.
func uncollected() (collect func()) {
	const large = 128 << 20
	limit := debug.SetMemoryLimit(-1)
	debug.SetMemoryLimit(min(limit, large))
	percent := debug.SetGCPercent(-1)
	return func() {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(limit)
	}
}

// later calls f at once, beside what its caller does next; the function that it returns waits for the result.
func later[T any](f func() (T, error)) func() (T, error) {
	var v T
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		v, err = f()
	}()
	return func() (T, error) { <-done; return v, err }
}

// listen makes the unix socket, for root alone from its first moment on.
func listen(path string) (net.Listener, error) {
	// A socket that a killed daemon left behind. The state directory's lock says that nobody serves on it.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var l net.Listener
	err := withUmask(0o177, func() (err error) {
		l, err = net.Listen("unix", path)
		return err
	})
	return l, err
}

// useSystemd decides about the cgroup driver, as the kubelet's own default does: systemd where it is pid 1 and cgroups are v2.
func useSystemd(c *config.Config) bool {
	switch c.Cgroup.Driver {
	case "systemd":
		return true
	case "cgroupfs":
		return false
	}
	_, err := os.Stat("/run/systemd/system") // sd_booted(3)
	return err == nil && cgroup.Unified()
}

func cgroupParent(c *config.Config, systemd bool) string {
	switch {
	case c.Cgroup.Parent != "":
		return c.Cgroup.Parent
	case systemd:
		return "embedcri.slice"
	}
	return "/embedcri"
}

// siblingProgram finds a program that is installed beside this one, or in PATH.
func siblingProgram(name string) (string, error) {
	if self, err := os.Executable(); err == nil {
		p := filepath.Join(filepath.Dir(self), name)
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	p, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("find %s, which is installed with embedcri: %w", name, err)
	}
	return filepath.Abs(p)
}
