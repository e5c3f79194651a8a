// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	fp "github.com/embedcri/embedcri/internal/failpoint"
	"github.com/embedcri/embedcri/internal/testnode"
)

// rows says which script makes each step. A step without a row fails the test, and so does a row whose step was not made.
var rows = map[fp.Step]func(*actor){
	fp.PodIdentity: pod, fp.PodDurable: pod, fp.PodCreating: pod, fp.PodFiles: pod, fp.PodShm: pod, fp.PodPins: pod, fp.PodNamespaces: pod,
	fp.NamespacePin: pod, fp.PodPaths: pod, fp.PodPlan: pod, fp.PodAttach: pod, fp.PodAttached: pod, fp.PodHosts: pod,
	fp.PodReady: pod, fp.PodResources: pod,
	fp.PodInit: podWithInit, fp.PodInitRecord: podWithInit, fp.PodInitGone: podWithInit,

	fp.ContainerIdentity: container, fp.RootfsSnapshot: container, fp.RootfsMount: container, fp.ContainerVolumes: container,
	fp.VolumeSnapshot: container, fp.VolumeMount: container, fp.ContainerComplete: container, fp.ContainerDurable: container, fp.TaskCreating: container,
	fp.TaskBundle: container, fp.TaskStreams: container, fp.RuntimeCreate: container, fp.TaskFollow: container,
	fp.TaskCreated: container,

	fp.TaskStarting: container, fp.RuntimeStart: container, fp.TaskRunning: container, fp.ExecGroup: container,
	fp.RuntimeExec: container, fp.ExecWatch: container, fp.RuntimeUpdate: container, fp.UpdateRecord: container,
	fp.RuntimePause: container, fp.PauseRecord: container, fp.LogReopen: container,

	fp.StopIntent: container, fp.StopSignal: container, fp.StopSent: container, fp.StopForced: killed, fp.StopKill: killed,
	fp.ExitRecord: container, fp.ExitSync: container, fp.ExitForget: container, fp.ExitDelete: container,

	fp.RootfsUnmount: container, fp.RootfsRemove: container, fp.VolumeUnmount: container, fp.VolumeRemove: container,
	fp.TaskRemoving: container, fp.RuntimeDelete: container, fp.StreamsRemove: container, fp.BundleRemove: container,
	fp.TaskForget: container, fp.ContainerRecordGone: container,

	fp.PodStopping: pod, fp.PodDetach: pod, fp.PodDetached: pod, fp.PodUnpin: pod, fp.PodUnpinned: pod, fp.PodStopped: pod,
	fp.PodRemoving: pod, fp.PodFilesRemove: pod, fp.PodRecordGone: pod, fp.RecordTrashed: pod,

	fp.ImageLease: pull, fp.ImageBlob: pull, fp.ImageUnpack: pull, fp.ImageRecord: pull, fp.ImageLeaseEnd: pull,
	fp.ImageSynced: pull, fp.ImageRemove: pull,
}

// initToo are the steps that are made for a pod's own init as well as for a container, with other code around them.
var initToo = []fp.Step{
	fp.TaskCreating, fp.TaskBundle, fp.TaskStreams, fp.RuntimeCreate, fp.TaskFollow, fp.TaskCreated, fp.TaskStarting, fp.RuntimeStart,
	fp.TaskRunning, fp.StopIntent, fp.StopKill, fp.ExitRecord, fp.ExitDelete, fp.TaskRemoving, fp.RuntimeDelete, fp.StreamsRemove,
	fp.BundleRemove, fp.TaskForget,
}

// pod is the life of a pod with a network.
func pod(a *actor) {
	id := a.runPod(a.n.PodConfig())
	a.call("UpdatePodSandboxResources", func(ctx context.Context) error {
		_, err := a.c.UpdatePodSandboxResources(ctx, &runtimeapi.UpdatePodSandboxResourcesRequest{
			PodSandboxId: id, Resources: &runtimeapi.LinuxContainerResources{CpuShares: 100},
		})
		return err
	}, nil)
	a.stopPod(id)
	a.removePod(id)
}

// podWithInit is the life of a pod whose containers share their pid namespace.
func podWithInit(a *actor) {
	pc := a.n.HostPodConfig()
	pc.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	id := a.runPod(pc)
	a.stopPod(id)
	a.removePod(id)
}

// container is the life of a container, in a pod that was there before.
func container(a *actor) {
	cfg := a.config("sh", "-c", program)
	cfg.Mounts = append(cfg.Mounts, &runtimeapi.Mount{ContainerPath: "/volume", Image: &runtimeapi.ImageSpec{Image: a.volume}, Readonly: true})
	id := a.start(a.create(cfg), cfg)
	a.exec(id)
	a.call("UpdateContainerResources", func(ctx context.Context) error {
		_, err := a.c.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{
			ContainerId: id, Linux: &runtimeapi.LinuxContainerResources{CpuShares: 200},
		})
		return err
	}, nil)
	a.task("pause", id)
	a.task("resume", id)
	path := a.status(id).LogPath
	if err := os.Rename(path, path+".1"); err != nil {
		a.t.Fatal(err)
	}
	a.call("ReopenContainerLog", func(ctx context.Context) error {
		_, err := a.c.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id})
		return err
	}, nil)
	a.stop(id, 2, 7)
	if !a.slow {
		var lines []string
		for _, p := range []string{path + ".1", path} {
			b, _ := os.ReadFile(p)
			for l := range strings.Lines(string(b)) {
				lines = append(lines, l[strings.IndexByte(l, ' ')+1:])
			}
		}
		const want = "stdout F ready\nstdout F bye\n"
		got := strings.Join(lines, "")
		if b, err := os.ReadFile(a.order + ".hit"); err == nil && strings.HasPrefix(string(b), fp.RuntimeStart.String()+" after error") {
			got = strings.TrimPrefix(got, "stdout F ready\n") // a start that was made and is said to have failed has run, in the container before this one
			got = "stdout F ready\n" + strings.TrimPrefix(got, "stdout F ready\n")
		}
		if got != want {
			a.t.Errorf("log: %q", got)
		}
	}
	a.remove(id)
}

// killed is the end of a container that does not listen.
func killed(a *actor) {
	cfg := a.config("sh", "-c", "trap '' TERM; echo ready; sleep 1000 & wait")
	id := a.start(a.create(cfg), cfg)
	a.stop(id, 0, 137)
	a.remove(id)
}

// pull is the life of an image.
func pull(a *actor) {
	ref := registry.Ref(a.t, "busybox:2")
	var id string
	a.call("PullImage", func(ctx context.Context) error {
		r, err := a.c.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
		id = r.GetImageRef()
		return err
	}, nil)
	a.call("ImageStatus", func(ctx context.Context) error {
		r, err := a.c.images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
		if err == nil && r.Image.GetId() != id {
			a.t.Errorf("image status: %v, want %s", r, id)
		}
		return err
	}, nil)
	// The background's part: the image is on disk.
	a.eventually("on disk", func() error {
		if !a.alive() && !a.wasHit() {
			b, err := os.ReadFile(a.order)
			if err == nil && strings.HasPrefix(string(b), fp.ImageSynced.String()) {
				return fmt.Errorf("not yet")
			}
		}
		return nil
	})
	a.call("RemoveImage", func(ctx context.Context) error {
		_, err := a.c.images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
		return err
	}, nil)
	// The next pull must find nothing here, else it does not make all steps.
	a.eventually("blobs are collected", func() error {
		a.alive()
		for _, b := range a.blobs() {
			if !a.kept[b] {
				return fmt.Errorf("blob %s is left", b)
			}
		}
		return nil
	})
}

func (a *actor) blobs() []string {
	all, _ := filepath.Glob(filepath.Join(a.n.Dir, "root", "image", "content", "blobs", "sha256", "*"))
	return all
}

// TestCrashTable fails each durable step in each way: the daemon is killed before or after it, or it returns an error, or panics.
// The state afterwards must be an allowed one, the same call must succeed when it is repeated, and in the end nothing must be left.
// With EMBEDCRI_CRASH=all (make crash) that is all combinations; without, those that say most.
func TestCrashTable(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	const nodes = 2 // one waits for programs while the other computes
	type row struct {
		step       fp.Step
		when, mode string
		script     func(*actor)
		suffix     string // of the test's name
	}
	work := make(chan row)
	go func() {
		defer close(work)
		all := os.Getenv("EMBEDCRI_CRASH") == "all"
		for _, s := range fp.Steps() {
			for _, when := range []string{"before", "after"} {
				for _, mode := range []string{fp.Kill, fp.Error, fp.Panic} {
					// Before a step is much the same as after the last one, and a panic as an error.
					if all || when == "after" && mode != fp.Panic || when == "before" && mode == fp.Error {
						work <- row{s, when, mode, rows[s], ""}
						if slices.Contains(initToo, s) {
							work <- row{s, when, mode, podWithInit, "/init"}
						}
					}
				}
			}
		}
	}()
	for i := range nodes {
		t.Run(fmt.Sprint("node", i), func(t *testing.T) {
			t.Parallel()
			a := newActor(t)
			was := a.n.Quiet()
			for r := range work {
				t.Run(fmt.Sprintf("%s/%s/%s%s", r.step, r.when, r.mode, r.suffix), func(t *testing.T) {
					if r.script == nil {
						t.Fatalf("the step %q has no row", r.step)
					}
					a.row(t, r.step, r.when, r.mode, r.script)
				})
			}
			if err := a.n.Settled(was, nil, 20*time.Second); err != nil && !t.Failed() {
				t.Errorf("left behind: %v", err)
			}
			a.wantNoLeases(t)
		})
	}
}

// newActor prepares a node with two images and a pod.
func newActor(t *testing.T) *actor {
	t.Helper()
	order := filepath.Join(t.TempDir(), "order")
	a := &actor{t: t, order: order, kept: map[string]bool{}}
	a.n = testnode.Start(t, testnode.Options{Env: []string{fp.Env + "=" + order}, KeepFailed: os.Getenv("EMBEDCRI_KEEP") != ""})
	a.image, a.volume = registry.Ref(t, "busybox:1"), registry.Ref(t, "exit:1")
	a.n.Pull(a.image)
	a.n.Pull(a.volume)
	for _, b := range a.blobs() {
		a.kept[b] = true
	}
	a.c = dial(t, a.n.Socket)
	t.Cleanup(func() { _ = a.c.conn.Close() })
	// Once, for what a first time makes and nobody takes away: the bridge, directories.
	pod(a)
	a.pc = a.n.HostPodConfig()
	a.pod = a.runPod(a.pc)
	container(a)
	pull(a)
	return a
}

// row carries out one row of the table.
//
// What is left of one row is not blamed on the next: that one begins with the world that it finds.
func (a *actor) row(t *testing.T, s fp.Step, when, mode string, script func(*actor)) {
	outer := a.t
	a.t = t
	defer func() { a.t = outer }()
	a.alive() // if the row before this one has given up
	a.slow = s == fp.StopSignal && when == "before" && mode == fp.Error
	was := a.n.World()
	held, err := a.held()
	if err != nil {
		t.Fatal(err)
	}
	descriptors := testnode.Descriptors(a.n.Pid())
	a.arm(s, when, mode)
	script(a)
	a.eventually("background work", func() error {
		if !a.wasHit() {
			return fmt.Errorf("the order was never carried out: the step %q was not made", s)
		}
		return nil
	})
	_ = os.Remove(a.order)
	a.alive()
	if err := a.n.Settled(was, testnode.WithoutSnapshots, 20*time.Second); err != nil {
		t.Errorf("left behind: %v", err)
	}
	if err := a.heldAgain(held, descriptors, 20*time.Second); err != nil {
		t.Errorf("still held: %v", err)
	}
}
