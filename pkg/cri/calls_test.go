// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/pkg/image"
	"github.com/embedcri/embedcri/pkg/sandbox"
	"github.com/embedcri/embedcri/pkg/task"
)

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s: %v, want code %v", what, err, want)
	}
}

func TestVersionStatusConfig(t *testing.T) {
	pods, _, _ := node()
	pods.cond = sandbox.Conditions{RuntimeReady: true, NetworkReason: "NoConfig", NetworkMessage: "bad \xff bytes"}
	rt, _, _, _ := serve(t, pods, &fakeImages{}, func(o *Options) {
		o.CgroupDriver = "systemd"
		o.Info = func() map[string]any { return map[string]any{"config": map[string]int{"x": 1}} }
	})
	ctx := t.Context()

	v, err := rt.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil || v.RuntimeName != "embedcri" || v.RuntimeVersion != "0.1.0" || v.RuntimeApiVersion != "v1" || v.Version == "" {
		t.Errorf("%v, %v", v, err)
	}
	cfg, err := rt.RuntimeConfig(ctx, &runtimeapi.RuntimeConfigRequest{})
	if err != nil || cfg.Linux.CgroupDriver != runtimeapi.CgroupDriver_SYSTEMD {
		t.Errorf("%v, %v", cfg, err)
	}
	if _, err := rt.UpdateRuntimeConfig(ctx, &runtimeapi.UpdateRuntimeConfigRequest{}); err != nil {
		t.Error(err)
	}
	st, err := rt.Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	if c := st.Status.Conditions; len(c) != 2 || c[0].Type != "RuntimeReady" || !c[0].Status || c[1].Type != "NetworkReady" || c[1].Status || c[1].Reason != "NoConfig" {
		t.Errorf("conditions %v", c)
	}
	var names []string
	for _, h := range st.RuntimeHandlers {
		names = append(names, h.Name)
	}
	if !slices.Equal(names, []string{"", "runc", "crun"}) {
		t.Errorf("handlers %q", names)
	}
	if st.Info["config"] != `{"x":1}` || !strings.Contains(st.Info["calls"], `"Version"`) {
		t.Errorf("info %v", st.Info)
	}
	if st, _ := rt.Status(ctx, &runtimeapi.StatusRequest{}); len(st.GetInfo()) != 0 {
		t.Error("info without verbose")
	}
}

func TestPodCalls(t *testing.T) {
	pods, p, c := node()
	rt, _, _, _ := serve(t, pods, &fakeImages{})
	ctx := t.Context()

	var handler string
	pods.run = func(_ context.Context, _ *runtimeapi.PodSandboxConfig, h string) (pod, error) {
		handler = h
		if h == "kata" {
			return nil, fmt.Errorf("runtime_handler %q: %w", h, errdefs.ErrNotFound)
		}
		return p, nil
	}
	run, err := rt.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: podConfig(), RuntimeHandler: "crun"})
	if err != nil || run.PodSandboxId != podID || handler != "crun" {
		t.Errorf("%v, %v, handler %q", run, err, handler)
	}
	_, err = rt.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: podConfig(), RuntimeHandler: "kata"})
	wantCode(t, "unknown handler", err, codes.NotFound)
	_, err = rt.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{})
	wantCode(t, "no config", err, codes.InvalidArgument)

	st, err := rt.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: podID})
	if err != nil || len(st.ContainersStatuses) != 1 || st.Timestamp != 0 || st.Info != nil {
		t.Errorf("%v, %v", st, err)
	}
	creating := &fakePod{id: strings.Repeat("d", 64), config: podConfig(), status: sandbox.PodStatus{State: sandbox.Creating, Awaited: true}}
	pods.pods = append(pods.pods, creating)
	list, err := rt.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil || len(list.Items) != 1 {
		t.Errorf("a pod in the making is listed: %v, %v", list, err)
	}

	created, err := rt.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: podID, Config: containerConfig()})
	if err != nil || created.ContainerId == "" {
		t.Errorf("%v, %v", created, err)
	}
	_, err = rt.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: ctrID, Config: containerConfig()})
	wantCode(t, "container in no pod", err, codes.NotFound)

	for range 2 {
		_, err := rt.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: podID})
		wantCode(t, "stop", err, codes.OK)
	}
	p.err = fmt.Errorf("busy: %w", errdefs.ErrUnavailable)
	_, err = rt.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: podID})
	wantCode(t, "remove that fails", err, codes.Unavailable)
	if !slices.Equal(p.calls, []string{"stop", "stop", "remove"}) {
		t.Errorf("the pod saw %v", p.calls)
	}
	_ = c
}

func TestContainerCalls(t *testing.T) {
	pods, _, c := node()
	rt, _, _, _ := serve(t, pods, &fakeImages{})
	ctx := t.Context()

	if _, err := rt.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: ctrID}); err != nil {
		t.Error(err)
	}
	if _, err := rt.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: ctrID, Timeout: math.MaxInt64}); err != nil || c.grace != math.MaxInt64 {
		t.Errorf("%v, grace %v", err, c.grace)
	}
	_, err := rt.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: ctrID, Timeout: -1})
	wantCode(t, "negative timeout", err, codes.InvalidArgument)
	limits := &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 1 << 20}
	if _, err := rt.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: ctrID, Linux: limits}); err != nil || c.update.MemoryLimitInBytes != 1<<20 {
		t.Errorf("%v, %v", err, c.update)
	}
	_, err = rt.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: ctrID})
	wantCode(t, "update to nothing", err, codes.InvalidArgument)
	c.err = fmt.Errorf("not running: %w", errdefs.ErrFailedPrecondition)
	_, err = rt.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: ctrID})
	wantCode(t, "reopen", err, codes.FailedPrecondition)
	_, err = rt.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: ctrID})
	wantCode(t, "start", err, codes.FailedPrecondition)

	st, err := rt.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: ctrID, Verbose: true})
	if err != nil || st.Status.Id != ctrID || st.Info["info"] == "" {
		t.Errorf("%v, %v", st, err)
	}
	list, err := rt.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil || len(list.Containers) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	c.status.State = task.Creating
	if list, _ := rt.ListContainers(ctx, &runtimeapi.ListContainersRequest{}); len(list.GetContainers()) != 0 {
		t.Errorf("a container in the making is listed: %v", list)
	}
	_, err = rt.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: ctrID})
	wantCode(t, "status of a container in the making", err, codes.NotFound)
}

// TestAbsent: what is not there can be stopped and removed, and has no status.
func TestAbsent(t *testing.T) {
	pods, _, _ := node()
	rt, im, _, _ := serve(t, pods, &fakeImages{err: errdefs.ErrNotFound})
	ctx := t.Context()
	for id, wants := range map[string][2]codes.Code{
		strings.Repeat("e", 64):                {codes.OK, codes.NotFound},
		"8f2d3f70-0c3e-4d1c-9d43-4ef1bb6e4a5b": {codes.OK, codes.NotFound},
		"../../" + ctrID:                       {codes.InvalidArgument, codes.InvalidArgument},
		"":                                     {codes.InvalidArgument, codes.InvalidArgument},
	} {
		for what, call := range map[string]func() error{
			"StopPodSandbox": func() error {
				_, err := rt.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
				return err
			},
			"RemovePodSandbox": func() error {
				_, err := rt.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
				return err
			},
			"StopContainer": func() error {
				_, err := rt.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id})
				return err
			},
			"RemoveContainer": func() error {
				_, err := rt.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id})
				return err
			},
		} {
			wantCode(t, what+" "+id, call(), wants[0])
		}
		for what, call := range map[string]func() error{
			"PodSandboxStatus": func() error {
				_, err := rt.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
				return err
			},
			"ContainerStatus": func() error {
				_, err := rt.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
				return err
			},
			"StartContainer": func() error {
				_, err := rt.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id})
				return err
			},
			"Attach": func() error {
				_, err := rt.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: id, Stdout: true})
				return err
			},
			"PortForward": func() error {
				_, err := rt.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: id})
				return err
			},
			"ExecSync": func() error {
				_, err := rt.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"x"}})
				return err
			},
		} {
			wantCode(t, what+" "+id, call(), wants[1])
		}
	}
	_, err := im.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: "gone"}})
	wantCode(t, "RemoveImage", err, codes.OK)
	st, err := im.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: "gone"}})
	if err != nil || st.Image != nil {
		t.Errorf("ImageStatus: %v, %v", st, err)
	}
	list, err := im.ListImages(ctx, &runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: "gone"}}})
	if err != nil || len(list.Images) != 0 {
		t.Errorf("ListImages: %v, %v", list, err)
	}
}

func TestExecSync(t *testing.T) {
	pods, _, c := node()
	rt, _, _, _ := serve(t, pods, &fakeImages{})
	ctx := t.Context()
	c.execSync = func(_ context.Context, cmd []string, timeout time.Duration) (sandbox.ExecResult, error) {
		if timeout == time.Second {
			return sandbox.ExecResult{}, fmt.Errorf("exec in container: %w", context.DeadlineExceeded)
		}
		return sandbox.ExecResult{Stdout: []byte(strings.Join(cmd, " ")), Stderr: make([]byte, maxMessageSize), Code: 3}, nil
	}
	// As much as can be: the kubelet's client must still be able to receive it.
	r, err := rt.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: ctrID, Cmd: []string{"echo", "hi"}})
	if err != nil || string(r.Stdout) != "echo hi" || r.ExitCode != 3 || len(r.Stderr) != maxExecSyncOutput-len(r.Stdout) {
		t.Errorf("%q, %d bytes, code %d, %v", r.GetStdout(), len(r.GetStderr()), r.GetExitCode(), err)
	}
	_, err = rt.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: ctrID, Cmd: []string{"sleep"}, Timeout: 1})
	wantCode(t, "timed out", err, codes.DeadlineExceeded)
	_, err = rt.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: ctrID})
	wantCode(t, "no command", err, codes.InvalidArgument)
}

func TestImageCalls(t *testing.T) {
	pods, _, _ := node()
	images := &fakeImages{images: []*image.Image{
		{ID: "sha256:1d", RepoTags: []string{"registry.example/app:v1"}, Size: 5, Pinned: true},
		{ID: "sha256:2e", RepoTags: []string{"registry.example/db:v1"}},
	}}
	_, im, _, lines := serve(t, pods, images)
	ctx := t.Context()

	pull, err := im.PullImage(ctx, &runtimeapi.PullImageRequest{
		Image: &runtimeapi.ImageSpec{Image: "registry.example/app:v1", RuntimeHandler: "runc"},
		Auth:  &runtimeapi.AuthConfig{Username: "u", Password: "hunter2"},
	})
	if err != nil || pull.ImageRef != "sha256:1d" || images.pulled.Ref != "registry.example/app:v1" || images.pulled.Auth.GetPassword() != "hunter2" || images.pulled.Handler != "runc" {
		t.Errorf("%v, %v, %+v", pull, err, images.pulled.Ref)
	}
	images.err = fmt.Errorf("registry: %w", errdefs.ErrUnauthenticated)
	_, err = im.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "x"}, Auth: &runtimeapi.AuthConfig{Password: "hunter2"}})
	wantCode(t, "pull", err, codes.Unauthenticated)
	if all := strings.Join(lines.all(), "\n"); strings.Contains(all, "hunter2") {
		t.Errorf("a password was logged: %s", all)
	}
	for _, call := range []func() error{
		func() error { _, err := im.PullImage(ctx, &runtimeapi.PullImageRequest{}); return err },
		func() error { _, err := im.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{}); return err },
		func() error { _, err := im.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{}); return err },
	} {
		wantCode(t, "no image", call(), codes.InvalidArgument)
	}

	list, err := im.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil || len(list.Images) != 2 || !list.Images[0].Pinned {
		t.Errorf("%v, %v", list, err)
	}
	one, err := im.ListImages(ctx, &runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: "sha256:2e"}}})
	if err != nil || len(one.Images) != 1 || one.Images[0].Id != "sha256:2e" {
		t.Errorf("%v, %v", one, err)
	}
	st, err := im.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: "sha256:1d"}, Verbose: true})
	if err != nil || st.Image.GetId() != "sha256:1d" || !strings.Contains(st.Info["info"], "imageSpec") {
		t.Errorf("%v, %v", st, err)
	}
}

func TestImageFsInfo(t *testing.T) {
	pods, _, _ := node()
	_, im, _, _ := serve(t, pods, &fakeImages{usage: image.StoreUsage{
		Mountpoint: "/var/lib/embedcri", Images: image.Usage{Bytes: 7, Inodes: 3, At: time.Unix(5, 0)},
	}})
	r, err := im.ImageFsInfo(t.Context(), &runtimeapi.ImageFsInfoRequest{})
	if err != nil || len(r.ImageFilesystems) != 1 || len(r.ContainerFilesystems) != 1 {
		t.Fatalf("%v, %v", r, err)
	}
	if i := r.ImageFilesystems[0]; i.UsedBytes.Value != 7 || i.InodesUsed.Value != 3 || i.FsId.Mountpoint != "/var/lib/embedcri" || i.Timestamp != time.Unix(5, 0).UnixNano() {
		t.Errorf("%v", i)
	}
	if r.ContainerFilesystems[0].Timestamp <= 0 {
		t.Error("a timestamp that is not > 0")
	}
}
