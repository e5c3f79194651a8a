// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testnode"
)

// TestKubelet puts pods of every kind before a kubelet, and looks at them from its side. One kubelet serves all the checks, as its
// start takes longer than they do.
func TestKubelet(t *testing.T) {
	for name, evented := range map[string]bool{"generic PLEG": false, "evented PLEG": true} {
		t.Run(name, func(t *testing.T) {
			k := start(t, map[string]bool{"PodAndContainerStatsFromCRI": true, "EventedPLEG": evented})
			for _, p := range []*corev1.Pod{k.web(), k.initPod(), k.hostPod(), k.sharedPod(), k.usersPod(), k.job(), k.crash(), k.sick(), k.missing()} {
				k.add(p)
			}
			passed, failed := 0, 0
			for _, check := range []struct {
				name string
				f    func(*kubelet)
			}{
				{"pods come up", (*kubelet).podsComeUp},
				{"pods end", (*kubelet).podsEnd},
				{"image that is not there", (*kubelet).imageMissing},
				{"logs", (*kubelet).logs},
				{"exec", (*kubelet).execs},
				{"port-forward", (*kubelet).forwards},
				{"liveness probe fails", (*kubelet).livenessFails},
				{"stats summary", (*kubelet).summary},
				{"cadvisor metrics", (*kubelet).cadvisor},
				{"crash loop", (*kubelet).crashLoop},
				{"daemon killed", (*kubelet).daemonKilled},
				{"pods go", (*kubelet).podsGo},
			} {
				ok := t.Run(check.name, func(t *testing.T) {
					outer := k.T
					k.T = t
					defer func() { k.T = outer }()
					check.f(k)
				})
				if ok {
					passed++
				} else {
					failed++
				}
			}
			k.node.Record(testnode.Figures{Client: testnode.FirstLine(t, k.program, "--version"), Command: "static pods, " + name, Passed: passed, Failed: failed})
		})
	}
}

func condition(p *corev1.Pod, t corev1.PodConditionType) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == t && c.Status == corev1.ConditionTrue })
}

// running are the pods that stay up.
var running = []string{"web", "init", "host", "shared", "users", "sick"}

func ready(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodRunning && condition(p, corev1.PodReady)
}

func (k *kubelet) podsComeUp() {
	for _, name := range running {
		p := k.waitFor(name, "ready", ready)
		if name != "host" && len(p.Status.PodIPs) != 2 {
			k.Errorf("pod %s has addresses %v; want one of each family", name, p.Status.PodIPs)
		}
		for _, c := range p.Status.ContainerStatuses {
			if c.RestartCount != 0 && name != "sick" || !strings.HasPrefix(c.ContainerID, "embedcri://") || c.ImageID == "" {
				k.Errorf("pod %s: container %+v", name, c)
			}
		}
	}
	web := k.pod("web")
	if web.Status.QOSClass != corev1.PodQOSGuaranteed {
		k.Errorf("QoS class %s", web.Status.QOSClass)
	}
	id := strings.TrimPrefix(web.Status.ContainerStatuses[0].ContainerID, "embedcri://")
	if r := k.node.Status(id).Resources.GetLinux(); r.GetMemoryLimitInBytes() != 64<<20 || r.GetCpuQuota() != 50000 {
		k.Errorf("resources %v", r)
	}
	initPod := k.pod("init").Status
	if s := initPod.InitContainerStatuses; len(s) != 2 || s[0].State.Terminated == nil || s[0].State.Terminated.Reason != "Completed" || s[1].State.Running == nil {
		k.Errorf("init containers: %+v", s)
	}
}

func (k *kubelet) podsEnd() {
	p := k.waitFor("job", "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	for _, c := range p.Status.ContainerStatuses {
		s := c.State.Terminated
		if s == nil || s.FinishedAt.IsZero() || s.StartedAt.IsZero() {
			k.Fatalf("container %s: state %+v", c.Name, c.State)
		}
		got := fmt.Sprintf("%d %s %q", s.ExitCode, s.Reason, s.Message)
		if want := map[string]string{"good": `0 Completed ""`, "bad": `3 Error "the message"`}[c.Name]; got != want {
			k.Errorf("container %s: %s; want %s", c.Name, got, want)
		}
	}
}

func (k *kubelet) imageMissing() {
	k.waitFor("missing", "ImagePullBackOff", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
			slices.Contains([]string{"ErrImagePull", "ImagePullBackOff"}, p.Status.ContainerStatuses[0].State.Waiting.Reason)
	})
}

func (k *kubelet) livenessFails() {
	if _, err := k.exec("sick", "main", "rm", "/alive"); err != nil {
		k.Fatal(err)
	}
	p := k.waitFor("sick", "restarted and ready", func(p *corev1.Pod) bool {
		return ready(p) && p.Status.ContainerStatuses[0].RestartCount > 0
	})
	if last := p.Status.ContainerStatuses[0].LastTerminationState.Terminated; last == nil {
		k.Errorf("nothing is known of the container before: %+v", p.Status.ContainerStatuses[0])
	}
}

func (k *kubelet) crashLoop() {
	p := k.waitFor("crash", "in back-off after 3 restarts", func(p *corev1.Pod) bool {
		s := p.Status.ContainerStatuses
		return len(s) == 1 && s[0].RestartCount >= 3 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == "CrashLoopBackOff"
	})
	if last := p.Status.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.ExitCode != 1 || last.Reason != "Error" {
		k.Errorf("last state %+v", last)
	}
}

// daemonKilled kills the daemon, ends one container meanwhile, and starts it again: that one is restarted with its true status, the
// others have not noticed.
func (k *kubelet) daemonKilled() {
	ids := map[string]string{}
	for _, name := range []string{"web", "init", "host", "shared", "users"} {
		for _, c := range k.pod(name).Status.ContainerStatuses {
			ids[name+"/"+c.Name] = c.ContainerID
		}
	}
	before := k.pod("sick").Status.ContainerStatuses[0]
	id := strings.TrimPrefix(before.ContainerID, "embedcri://")
	pid := k.node.ContainerPid(id)
	k.node.Kill()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		k.Fatal(err)
	}
	time.Sleep(2 * time.Second) // the kubelet meets the socket that nobody listens on
	k.node.Start()
	p := k.waitFor("sick", "restarted", func(p *corev1.Pod) bool {
		return ready(p) && p.Status.ContainerStatuses[0].RestartCount > before.RestartCount
	})
	if last := p.Status.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.ExitCode != 137 {
		k.Errorf("last state %+v; want exit code 137", last)
	}
	for _, name := range []string{"web", "init", "host", "shared", "users"} {
		for _, c := range k.waitFor(name, "ready", ready).Status.ContainerStatuses {
			if is := ids[name+"/"+c.Name]; c.ContainerID != is || c.RestartCount != 0 {
				k.Errorf("pod %s: container %s is %s after %d restarts; it was %s", name, c.Name, c.ContainerID, c.RestartCount, is)
			}
		}
	}
	if out, err := k.exec("web", "web", "echo", "still here"); err != nil || out != "still here\n" {
		k.Errorf("exec after the restart: %q, %v", out, err)
	}
}

// podsGo removes every file: no container may run, and no pod be ready, a moment later. (The kubelet removes what is over in its
// garbage collection, once a minute.)
func (k *kubelet) podsGo() {
	entries, err := os.ReadDir(k.dir + "/manifests")
	if err != nil {
		k.Fatal(err)
	}
	for _, e := range entries {
		if err := os.Remove(k.dir + "/manifests/" + e.Name()); err != nil {
			k.Fatal(err)
		}
	}
	k.eventually("all pods go", time.Minute, func() error {
		containers, err := k.node.Runtime.ListContainers(k.node.Ctx(), &runtimeapi.ContainerFilter{
			State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}})
		if err != nil || len(containers) > 0 {
			return fmt.Errorf("running: %v, %v", containers, err)
		}
		pods, err := k.node.Runtime.ListPodSandbox(k.node.Ctx(), &runtimeapi.PodSandboxFilter{
			State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}})
		if err != nil || len(pods) > 0 {
			return fmt.Errorf("ready: %v, %v", pods, err)
		}
		if list := k.mustGet("/pods"); strings.Contains(list, `"name":"`) && strings.Contains(list, nodeName) {
			return fmt.Errorf("the kubelet has: %.300s", list)
		}
		return nil
	})
}
