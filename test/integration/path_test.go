// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testnode"
)

// TestPath walks the whole path once: pull, run, log, exec, network, stop, remove.
func TestPath(t *testing.T) {
	n := testnode.Start(t, testnode.Options{})
	ref := registry.Ref(t, "busybox:1")

	v, err := n.Runtime.Version(n.Ctx(), "")
	if err != nil || v.RuntimeName != "embedcri" || v.RuntimeApiVersion != "v1" {
		t.Fatalf("version: %v, %v", v, err)
	}
	n.Eventually("ready", func() error { // the plug-ins are asked for their status after the start
		st, err := n.Runtime.Status(n.Ctx(), true)
		if err != nil {
			return err
		}
		for _, c := range st.Status.Conditions {
			if !c.Status {
				return fmt.Errorf("condition %s: %s %s", c.Type, c.Reason, c.Message)
			}
		}
		return nil
	})
	imageID := n.Pull(ref)
	img, err := n.Images.ImageStatus(n.Ctx(), &runtimeapi.ImageSpec{Image: ref}, false)
	if err != nil || img.Image == nil || img.Image.Id != imageID {
		t.Fatalf("image status: %v, %v; want id %s", img, err, imageID)
	}
	if list, err := n.Images.ListImages(n.Ctx(), nil); err != nil || len(list) != 1 || list[0].Id != imageID {
		t.Fatalf("images: %v, %v", list, err)
	}

	pc := n.PodConfig()
	pc.Labels = map[string]string{"app": "x"}
	pod := n.RunPod(pc)
	ps, err := n.Runtime.PodSandboxStatus(n.Ctx(), pod, false)
	if err != nil || ps.Status.State != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Fatalf("pod status: %v, %v", ps, err)
	}
	if ip := ps.Status.Network.GetIp(); !strings.HasPrefix(ip, strings.TrimSuffix(n.Subnet, "0/24")) {
		t.Errorf("pod has address %q, want one of %s", ip, n.Subnet)
	}

	cfg := n.ContainerConfig(ref, "sh", "-c", "echo out; echo err >&2; hostname; exec sleep 1000")
	cfg.Labels = map[string]string{"app": "x"}
	ctr := n.Create(pod, pc, cfg)
	if s := n.Status(ctr); s.State != runtimeapi.ContainerState_CONTAINER_CREATED || s.CreatedAt == 0 || s.StartedAt != 0 {
		t.Errorf("created container: %v", s)
	}
	if err := n.Runtime.StartContainer(n.Ctx(), ctr); err != nil {
		t.Fatal(err)
	}
	s := n.Status(ctr)
	if s.State != runtimeapi.ContainerState_CONTAINER_RUNNING || s.StartedAt < s.CreatedAt || s.ImageId != imageID {
		t.Errorf("running container: %v", s)
	}
	n.Eventually("log", func() error {
		want := []string{"stderr F err", "stdout F out", "stdout F " + pc.Hostname}
		got := n.ContainerLog(ctr)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("got %q, want %q", got, want)
		}
		return nil
	})

	out, errOut, err := n.Runtime.ExecSync(n.Ctx(), ctr, []string{"sh", "-c", "echo hi; echo ho >&2"}, 10*time.Second)
	if err != nil || string(out) != "hi\n" || string(errOut) != "ho\n" {
		t.Errorf("exec: %q, %q, %v", out, errOut, err)
	}
	if _, _, err = n.Runtime.ExecSync(n.Ctx(), ctr, []string{"sh", "-c", "exit 7"}, 10*time.Second); err == nil || !strings.Contains(err.Error(), "7") {
		t.Errorf("exec exit 7: %v", err)
	}

	for _, f := range []struct {
		filter *runtimeapi.ContainerFilter
		want   int
	}{
		{nil, 1},
		{&runtimeapi.ContainerFilter{Id: ctr[:12]}, 1},
		{&runtimeapi.ContainerFilter{PodSandboxId: pod}, 1},
		{&runtimeapi.ContainerFilter{LabelSelector: map[string]string{"app": "y"}}, 0},
		{&runtimeapi.ContainerFilter{LabelSelector: map[string]string{"app": "x"}, State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}}, 1},
		{&runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_EXITED}}, 0},
	} {
		if l, err := n.Runtime.ListContainers(n.Ctx(), f.filter); err != nil || len(l) != f.want {
			t.Errorf("list %v: %d, %v; want %d", f.filter, len(l), err, f.want)
		}
	}

	if err := n.Runtime.StopContainer(n.Ctx(), ctr, 0); err != nil {
		t.Fatal(err)
	}
	if s := n.Status(ctr); s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != 137 || !strings.Contains(s.Message, "embedcri") {
		t.Errorf("stopped container: state %v, code %d, reason %q, message %q", s.State, s.ExitCode, s.Reason, s.Message)
	}
	for range 2 {
		if err := n.Runtime.RemoveContainer(n.Ctx(), ctr); err != nil {
			t.Error(err)
		}
		if err := n.Runtime.StopPodSandbox(n.Ctx(), pod); err != nil {
			t.Error(err)
		}
	}
	for range 2 {
		if err := n.Runtime.RemovePodSandbox(n.Ctx(), pod); err != nil {
			t.Error(err)
		}
	}
	if err := n.Images.RemoveImage(n.Ctx(), &runtimeapi.ImageSpec{Image: ref}); err != nil {
		t.Error(err)
	}
	if img, err := n.Images.ImageStatus(n.Ctx(), &runtimeapi.ImageSpec{Image: ref}, false); err != nil || img.Image != nil {
		t.Errorf("image after removal: %v, %v", img, err)
	}
}

// TestPodServesHTTP reaches a pod's server from the host.
func TestPodServesHTTP(t *testing.T) {
	n := testnode.Start(t, testnode.Options{})
	ref := registry.Ref(t, "httpd:1")
	n.Pull(ref)
	pc := n.PodConfig()
	pod := n.RunPod(pc)
	n.Run(pod, pc, n.ContainerConfig(ref))
	ps, err := n.Runtime.PodSandboxStatus(n.Ctx(), pod, false)
	if err != nil {
		t.Fatal(err)
	}
	n.Eventually("pod answers", func() error {
		r, err := http.Get("http://" + ps.Status.Network.Ip + ":8080/")
		if err != nil {
			return err
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil || !strings.Contains(string(b), pc.Hostname) {
			return fmt.Errorf("answer %q, %v", b, err)
		}
		return nil
	})
}

// TestNoProcessOfOurs looks for processes besides the container's own.
func TestNoProcessOfOurs(t *testing.T) {
	n := testnode.Start(t, testnode.Options{})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pc := n.PodConfig()
	pod := n.RunPod(pc)
	before := nodeProcesses(t, n)
	if len(procsIn(t, n)) != 0 {
		t.Fatalf("a pod without containers has processes: %v", procsIn(t, n))
	}
	n.Run(pod, pc, n.ContainerConfig(ref, "sleep", "1000"))
	// `runc start` returns a moment before its init becomes the container's command.
	n.Eventually("sleep alone in the container's cgroup", func() error {
		if got := procsIn(t, n); len(got) != 1 || !strings.HasPrefix(got[0], "sleep") {
			return fmt.Errorf("in the container's cgroup: %q", got)
		}
		return nil
	})
	// The runtime has left, and nothing of the daemon's has come.
	n.Eventually("no new process but the container's", func() error {
		after := nodeProcesses(t, n)
		for pid := range before {
			delete(after, pid)
		}
		if len(after) != 1 {
			return fmt.Errorf("new processes: %v", after)
		}
		return nil
	})
}

// nodeProcesses returns the processes that belong to this test's node: the daemon's descendants, whatever runs in the cgroups of
// its pods, and whatever names its directories. The rest of the machine does as it likes meanwhile.
func nodeProcesses(t *testing.T, n *testnode.Node) map[string]string {
	t.Helper()
	type proc struct{ parent, args string }
	all, found := map[string]proc{}, map[string]string{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		pid := filepath.Base(d)
		stat, err := os.ReadFile(d + "/stat")
		if err != nil {
			continue // it has just gone
		}
		b, _ := os.ReadFile(d + "/cmdline")
		cg, _ := os.ReadFile(d + "/cgroup")
		// The name before the state and the parent may have blanks and parentheses of its own.
		fields := strings.Fields(string(stat[strings.LastIndex(string(stat), ")")+1:]))
		p := proc{parent: fields[1], args: strings.ReplaceAll(string(b), "\x00", " ")}
		all[pid] = p
		if strings.Contains(string(cg), n.Parent+"/") || strings.Contains(p.args, "embedcri-"+n.Name) {
			found[pid] = p.args
		}
	}
	daemon := strconv.Itoa(n.Pid())
	for pid, p := range all {
		for q, ok := p, true; ok; q, ok = all[q.parent] {
			if q.parent == daemon {
				found[pid] = p.args
				break
			}
		}
	}
	return found
}

// procsIn lists the processes in the cgroups of a node's pods.
func procsIn(t testing.TB, n *testnode.Node) []string {
	t.Helper()
	var found []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		cg, err := os.ReadFile(d + "/cgroup")
		if err != nil || !strings.Contains(string(cg), n.Parent+"/") {
			continue
		}
		b, _ := os.ReadFile(d + "/cmdline")
		found = append(found, strings.ReplaceAll(string(b), "\x00", " "))
	}
	return found
}
