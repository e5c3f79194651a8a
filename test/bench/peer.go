// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// peer is one column of the table: a daemon, with one of its handlers.
type peer struct {
	name    string
	handler string // of its pods; "" is the daemon's default
	*daemon
}

func (p *peer) logDir() string { return filepath.Join(p.dir, "log") }

func (p *peer) pull(ctx context.Context, ref string) error {
	_, err := p.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	return err
}

// pod is a pod of the bench with its only container.
type pod struct {
	id, container string
	config        *runtimeapi.PodSandboxConfig
}

var podCounter atomic.Int64

func (p *peer) podConfig(host bool) *runtimeapi.PodSandboxConfig {
	name := fmt.Sprintf("bench-%d", podCounter.Add(1))
	network, hostname := runtimeapi.NamespaceMode_POD, name
	if host { // the kubelet names a pod on the host's network not either
		network, hostname = runtimeapi.NamespaceMode_NODE, ""
	}
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Uid: "uid-" + name, Namespace: "bench"},
		Hostname:     hostname,
		LogDirectory: filepath.Join(p.logDir(), name),
		DnsConfig:    &runtimeapi.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: []string{"bench.svc.cluster.local"}},
		Labels:       map[string]string{"app": "bench"},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: p.parent,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Network: network, Pid: runtimeapi.NamespaceMode_CONTAINER},
				Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
			},
		},
	}
}

// stages are how long the calls of a pod's start took.
type stages struct{ run, create, start, status time.Duration }

func (s stages) all() time.Duration { return s.run + s.create + s.start + s.status }

// launch starts a pod with one container that runs command, and returns when the runtime says that it runs.
func (p *peer) launch(ctx context.Context, host bool, env map[string]string, command ...string) (*pod, stages, error) {
	d := &pod{config: p.podConfig(host)}
	var took stages
	began := time.Now()
	lap := func() time.Duration {
		t := time.Since(began)
		began = began.Add(t)
		return t
	}
	run, err := p.runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: d.config, RuntimeHandler: p.handler})
	if err != nil {
		return nil, took, err
	}
	d.id, took.run = run.PodSandboxId, lap()
	created, err := p.runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: d.id, Config: p.containerConfig(d.config, env, command), SandboxConfig: d.config,
	})
	if err != nil {
		return d, took, err
	}
	d.container, took.create = created.ContainerId, lap()
	if _, err = p.runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: d.container}); err != nil {
		return d, took, err
	}
	took.start = lap()
	for {
		s, err := p.status(ctx, d.container)
		if err != nil {
			return d, took, err
		}
		if s.State != runtimeapi.ContainerState_CONTAINER_CREATED {
			took.status = lap()
			return d, took, nil
		}
	}
}

// ready waits until the payload has said so: a signal before that would be lost, as it is its namespace's first process.
func (d *pod) ready(ctx context.Context) error {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		if log, _ := os.ReadFile(d.log()); strings.HasSuffix(string(log), "F ready\n") {
			return nil
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("container %s does not say that it is ready in %s", d.container, d.log())
}

func (d *pod) log() string { return filepath.Join(d.config.LogDirectory, "main.log") }

func (p *peer) containerConfig(pod *runtimeapi.PodSandboxConfig, env map[string]string, command []string) *runtimeapi.ContainerConfig {
	key, value, _ := strings.Cut(payloadMark, "=")
	envs := []*runtimeapi.KeyValue{{Key: key, Value: []byte(value)}}
	for k, v := range env {
		envs = append(envs, &runtimeapi.KeyValue{Key: k, Value: []byte(v)})
	}
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "main"},
		Image:    &runtimeapi.ImageSpec{Image: p.bed.image},
		Command:  command,
		Envs:     envs,
		LogPath:  "main.log",
		Labels:   map[string]string{"app": "bench"},
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{CpuShares: 102, MemoryLimitInBytes: 1 << 30},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: pod.Linux.SecurityContext.NamespaceOptions,
				Seccomp:          pod.Linux.SecurityContext.Seccomp,
			},
		},
	}
}

func (p *peer) status(ctx context.Context, id string) (*runtimeapi.ContainerStatus, error) {
	r, err := p.runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	return r.GetStatus(), err
}

// containerInfo is what is of interest in the verbose part of a container's status.
type containerInfo struct {
	Pid         json.Number     `json:"pid"`
	RuntimeSpec json.RawMessage `json:"runtimeSpec"`
	Bundle      string          `json:"bundle"` // what relative paths in it are relative to
	Stages      []stage         `json:"stages"`
}

// stage is how long a part of a call took inside of the daemon. Only embedcri tells.
type stage struct {
	Name string `json:"name"`
	Took string `json:"took"` // as time.Duration prints it
}

func (p *peer) info(ctx context.Context, id string) (info containerInfo, err error) {
	r, err := p.runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		return info, err
	}
	if err := json.Unmarshal([]byte(r.Info["info"]), &info); err != nil {
		return info, fmt.Errorf("verbose status of %s: %w", id, err)
	}
	return info, nil
}

// stagesOf are the stages of a pod's and its container's making.
func (p *peer) stagesOf(ctx context.Context, d *pod) (ofPod, ofContainer []stage, err error) {
	r, err := p.runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: d.id, Verbose: true})
	if err != nil {
		return nil, nil, err
	}
	var info struct {
		Stages []stage `json:"stages"`
	}
	if err := json.Unmarshal([]byte(r.Info["info"]), &info); err != nil {
		return nil, nil, fmt.Errorf("verbose status of %s: %w", d.id, err)
	}
	c, err := p.info(ctx, d.container)
	return info.Stages, c.Stages, err
}

// pidOf is the pid of a container's first process.
func (p *peer) pidOf(ctx context.Context, id string) (int, error) {
	info, err := p.info(ctx, id)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(info.Pid.String())
}

func (p *peer) removePod(ctx context.Context, id string) error {
	if _, err := p.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return err
	}
	_, err := p.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
	return err
}

// removePods removes the bench's pods.
func (p *peer) removePods(ctx context.Context) error {
	r, err := p.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{
		Filter: &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"app": "bench"}},
	})
	if err != nil {
		return err
	}
	return eightAtOnce(len(r.Items), func(i int) error {
		err := p.removePod(ctx, r.Items[i].Id)
		if err != nil {
			err = errors.Join(err, p.removePod(ctx, r.Items[i].Id)) // as the kubelet would
		}
		return err
	})
}

// removeImages removes the bench's images from a runtime that stays.
func (p *peer) removeImages(ctx context.Context) error {
	if p.command != nil {
		return nil
	}
	_, err := p.images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: p.bed.image}})
	return err
}

// processes are those of the runtime: the daemon, what was started from its directory, what names one of its pods or containers
// on its command line (shims, monitors), and what is in its pods' cgroups but not the payload.
func (p *peer) processes(ctx context.Context) ([]int, error) {
	daemon, err := p.pid()
	if err != nil {
		return nil, err
	}
	marks := []string{p.dir, p.state}
	pods, err := p.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, err
	}
	for _, s := range pods.Items {
		marks = append(marks, s.Id)
	}
	containers, err := p.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, err
	}
	for _, c := range containers.Containers {
		marks = append(marks, c.Id)
	}
	var pids []int
	for _, q := range processes() {
		if q.pid == daemon || q.mentions(marks) || strings.Contains(q.cgroups, p.parent+"/") && !q.payload() {
			pids = append(pids, q.pid)
		}
	}
	return pids, nil
}

func (q process) mentions(marks []string) bool {
	for _, m := range marks {
		if strings.Contains(q.cmdline, m) {
			return true
		}
	}
	return false
}
