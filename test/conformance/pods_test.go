// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"maps"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestPodRecord is about what is told of a pod: everything that its creator gave, as it gave it, and when.
func TestPodRecord(t *testing.T) {
	f := start(t)
	pc := f.HostPodConfig()
	pc.Metadata.Attempt = 3
	pc.Labels = map[string]string{"io.kubernetes.pod.name": "a", "app": "x", "empty": ""}
	pc.Annotations = map[string]string{"note": "line 1\nline 2", "kubernetes.io/config.source": "file"}
	before := time.Now()
	id := f.RunPod(pc)
	after := time.Now()

	r, err := f.Runtime.PodSandboxStatus(f.Ctx(), id, false)
	if err != nil {
		t.Fatal(err)
	}
	s := r.Status
	want(t, "id", s.Id, id)
	want(t, "metadata", s.Metadata.String(), pc.Metadata.String())
	want(t, "state", s.State, runtimeapi.PodSandboxState_SANDBOX_READY)
	want(t, "labels", maps.Equal(s.Labels, pc.Labels), true)
	want(t, "annotations", maps.Equal(s.Annotations, pc.Annotations), true)
	want(t, "network namespace", s.Linux.GetNamespaces().GetOptions().GetNetwork(), runtimeapi.NamespaceMode_NODE)
	// A pod on the host's network has the host's addresses, which the kubelet knows: the runtime tells none.
	want(t, "address on the host's network", s.Network.GetIp(), "")
	if at := time.Unix(0, s.CreatedAt); at.Before(before.Add(-time.Second)) || at.After(after.Add(time.Second)) {
		t.Errorf("created at %v, which was between %v and %v", at, before, after)
	}

	list, err := f.Runtime.ListPodSandbox(f.Ctx(), &runtimeapi.PodSandboxFilter{Id: id})
	if err != nil || len(list) != 1 {
		t.Fatalf("list: %v, %v", list, err)
	}
	l := list[0]
	if l.Metadata.String() != pc.Metadata.String() || !maps.Equal(l.Labels, pc.Labels) || !maps.Equal(l.Annotations, pc.Annotations) ||
		l.State != s.State || l.CreatedAt != s.CreatedAt {
		t.Errorf("the list says %v, the status %v", l, s)
	}
}

// TestPodFilters: every field of a filter narrows the list; all that are set have to match.
func TestPodFilters(t *testing.T) {
	f := start(t)
	labelled := f.HostPodConfig()
	labelled.Labels = map[string]string{"app": "x", "tier": "front"}
	ready := f.RunPod(labelled)
	other := f.HostPodConfig()
	other.Labels = map[string]string{"app": "x", "tier": "back"}
	stopped := f.RunPod(other)
	if err := f.Runtime.StopPodSandbox(f.Ctx(), stopped); err != nil {
		t.Fatal(err)
	}
	state := func(s runtimeapi.PodSandboxState) *runtimeapi.PodSandboxStateValue {
		return &runtimeapi.PodSandboxStateValue{State: s}
	}
	isReady, isNot := state(runtimeapi.PodSandboxState_SANDBOX_READY), state(runtimeapi.PodSandboxState_SANDBOX_NOTREADY)
	for _, c := range []struct {
		what   string
		filter *runtimeapi.PodSandboxFilter
		ids    []string
	}{
		{"no filter", nil, []string{f.pod, ready, stopped}},
		{"empty filter", &runtimeapi.PodSandboxFilter{}, []string{f.pod, ready, stopped}},
		{"id", &runtimeapi.PodSandboxFilter{Id: ready}, []string{ready}},
		{"start of an id", &runtimeapi.PodSandboxFilter{Id: ready[:20]}, []string{ready}},
		{"unknown id", &runtimeapi.PodSandboxFilter{Id: "0123456789"}, nil},
		{"ready", &runtimeapi.PodSandboxFilter{State: isReady}, []string{f.pod, ready}},
		{"not ready", &runtimeapi.PodSandboxFilter{State: isNot}, []string{stopped}},
		{"one label", &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"app": "x"}}, []string{ready, stopped}},
		{"two labels", &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"app": "x", "tier": "back"}}, []string{stopped}},
		{"label of another value", &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"app": "y"}}, nil},
		{"label and state", &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"app": "x"}, State: isReady}, []string{ready}},
		{"id and state that disagree", &runtimeapi.PodSandboxFilter{Id: ready, State: isNot}, nil},
	} {
		got, err := f.Runtime.ListPodSandbox(f.Ctx(), c.filter)
		wantIDs(t, c.what, got, err, c.ids...)
	}
}

// TestPodEnds: StopPodSandbox and RemovePodSandbox may be called again, and with anything still running; a removed pod is unknown.
func TestPodEnds(t *testing.T) {
	f := start(t)
	running := f.Run(f.pod, f.pc, f.sh(forever))
	created := f.Create(f.pod, f.pc, f.sh(forever))
	for range 2 {
		wantCode(t, "stop", f.Runtime.StopPodSandbox(f.Ctx(), f.pod), codes.OK)
	}
	// "If there are any running containers within the sandbox, they must be forcibly terminated."
	want(t, "container of a stopped pod", f.Status(running).State, runtimeapi.ContainerState_CONTAINER_EXITED)
	if s := f.Status(created).State; s == runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the container that was never started is %v", s)
	}
	_, err := f.Runtime.CreateContainer(f.Ctx(), f.pod, f.sh(forever), f.pc)
	if err == nil {
		t.Error("a container is created in a pod that is stopped")
	}
	for range 2 {
		wantCode(t, "remove", f.Runtime.RemovePodSandbox(f.Ctx(), f.pod), codes.OK)
	}
	// "If there are any containers in the sandbox, they must be … removed."
	for _, id := range []string{running, created} {
		_, err := f.Runtime.ContainerStatus(f.Ctx(), id, false)
		wantCode(t, "container of a removed pod", err, codes.NotFound)
	}
	_, err = f.Runtime.PodSandboxStatus(f.Ctx(), f.pod, false)
	wantCode(t, "status of a removed pod", err, codes.NotFound)
	wantCode(t, "stop of a removed pod", f.Runtime.StopPodSandbox(f.Ctx(), f.pod), codes.OK)
	// The name is free again: the kubelet makes a new one with the same attempt after a failure.
	f.pod = f.RunPod(f.pc)
	if again, err := f.Runtime.RunPodSandbox(f.Ctx(), f.pc, ""); err == nil && again != f.pod {
		t.Errorf("two pods of one name: %s and %s", f.pod, again)
	}
	_, err = f.Runtime.RunPodSandbox(f.Ctx(), f.HostPodConfig(), "no-such-handler")
	if err == nil {
		t.Error("a pod runs with a handler that there is not")
	}
}
