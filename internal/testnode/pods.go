// SPDX-License-Identifier: Apache-2.0

package testnode

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testenv"
)

// Ctx returns a context that ends with the test, well before go test's own time-out.
func (n *Node) Ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testenv.Slow(3*time.Minute))
	n.T.Cleanup(cancel)
	return ctx
}

var podCounter atomic.Int64

// PodConfig returns the configuration of a pod with a network of its own and a log directory.
func (n *Node) PodConfig() *runtimeapi.PodSandboxConfig {
	name := fmt.Sprintf("pod-%d", podCounter.Add(1))
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Uid: "uid-" + name, Namespace: "default"},
		Hostname:     name,
		LogDirectory: filepath.Join(n.Dir, "log", name),
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
			},
		},
	}
}

// HostPodConfig returns the configuration of a pod on the host's network.
func (n *Node) HostPodConfig() *runtimeapi.PodSandboxConfig {
	c := n.PodConfig()
	c.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	return c
}

// RunPod runs a pod.
func (n *Node) RunPod(c *runtimeapi.PodSandboxConfig) string {
	n.T.Helper()
	return n.RunPodOn("", c)
}

// RunPodOn runs a pod on a runtime handler; empty is the default one.
func (n *Node) RunPodOn(handler string, c *runtimeapi.PodSandboxConfig) string {
	n.T.Helper()
	id, err := n.Runtime.RunPodSandbox(n.Ctx(), c, handler)
	if err != nil {
		n.T.Fatalf("run pod: %v", err)
	}
	return id
}

// Pull pulls an image.
func (n *Node) Pull(ref string) string {
	n.T.Helper()
	id, err := n.Images.PullImage(n.Ctx(), &runtimeapi.ImageSpec{Image: ref}, nil, nil)
	if err != nil {
		n.T.Fatalf("pull %s: %v", ref, err)
	}
	return id
}

// ContainerConfig returns the configuration of a container that runs command and logs.
func (n *Node) ContainerConfig(image string, command ...string) *runtimeapi.ContainerConfig {
	name := fmt.Sprintf("c-%d", podCounter.Add(1))
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name},
		Image:    &runtimeapi.ImageSpec{Image: image},
		Command:  command,
		LogPath:  name + ".log",
		Linux: &runtimeapi.LinuxContainerConfig{
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
			},
		},
	}
}

// Create creates a container in a pod.
func (n *Node) Create(pod string, pc *runtimeapi.PodSandboxConfig, c *runtimeapi.ContainerConfig) string {
	n.T.Helper()
	c.Linux.SecurityContext.NamespaceOptions.Network = pc.GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork()
	id, err := n.Runtime.CreateContainer(n.Ctx(), pod, c, pc)
	if err != nil {
		n.T.Fatalf("create container: %v", err)
	}
	return id
}

// Run creates and starts a container.
func (n *Node) Run(pod string, pc *runtimeapi.PodSandboxConfig, c *runtimeapi.ContainerConfig) string {
	n.T.Helper()
	id := n.Create(pod, pc, c)
	if err := n.Runtime.StartContainer(n.Ctx(), id); err != nil {
		n.T.Fatalf("start container: %v", err)
	}
	return id
}

// Status returns the status of a container.
func (n *Node) Status(id string) *runtimeapi.ContainerStatus {
	n.T.Helper()
	r, err := n.Runtime.ContainerStatus(n.Ctx(), id, false)
	if err != nil {
		n.T.Fatalf("container status: %v", err)
	}
	return r.Status
}

// ContainerPid returns the pid of a running container's first process, from the verbose part of its status.
func (n *Node) ContainerPid(id string) int {
	n.T.Helper()
	r, err := n.Runtime.ContainerStatus(n.Ctx(), id, true)
	if err != nil {
		n.T.Fatalf("container status: %v", err)
	}
	var info struct{ Pid int }
	if err := json.Unmarshal([]byte(r.Info["info"]), &info); err != nil || info.Pid <= 1 {
		n.T.Fatalf("verbose status has pid %d (%v): %v", info.Pid, err, r.Info)
	}
	return info.Pid
}

// WaitExited waits until a container has exited.
func (n *Node) WaitExited(id string) *runtimeapi.ContainerStatus {
	n.T.Helper()
	var s *runtimeapi.ContainerStatus
	n.Eventually("container exits", func() error {
		if s = n.Status(id); s.State != runtimeapi.ContainerState_CONTAINER_EXITED {
			return fmt.Errorf("state %v", s.State)
		}
		return nil
	})
	return s
}

// Eventually polls f until it succeeds.
func (n *Node) Eventually(what string, f func() error) {
	n.T.Helper()
	deadline := time.Now().Add(testenv.Slow(30 * time.Second))
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			n.T.Fatalf("%s: %v", what, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// ContainerLog returns the lines of a container's log, without time stamps: "stdout F text".
func (n *Node) ContainerLog(id string) []string {
	n.T.Helper()
	b, err := os.ReadFile(n.Status(id).LogPath)
	if err != nil {
		n.T.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(b)) {
		_, rest, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if !ok {
			n.T.Fatalf("malformed log line %q", line)
		}
		lines = append(lines, rest)
	}
	return lines
}
