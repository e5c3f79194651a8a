// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"errors"
	"maps"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestContainerRecord leads a container through its states: what its creator gave is told in each, and the times are in order.
func TestContainerRecord(t *testing.T) {
	f := start(t)
	c := f.sh("sleep 0.1; exit 9")
	c.Metadata.Attempt = 2
	c.Labels = map[string]string{"io.kubernetes.container.name": c.Metadata.Name, "empty": ""}
	c.Annotations = map[string]string{"io.kubernetes.container.hash": "12ab", "lines": "1\n2"}
	check := func(s *runtimeapi.ContainerStatus, state runtimeapi.ContainerState) {
		t.Helper()
		want(t, "state", s.State, state)
		want(t, "metadata", s.Metadata.String(), c.Metadata.String())
		want(t, "labels", maps.Equal(s.Labels, c.Labels), true)
		want(t, "annotations", maps.Equal(s.Annotations, c.Annotations), true)
		want(t, "log path", s.LogPath, f.pc.LogDirectory+"/"+c.LogPath)
		want(t, "image as it was asked for", s.Image.GetUserSpecifiedImage(), c.Image.UserSpecifiedImage)
		if s.ImageRef == "" || s.ImageId == "" || s.Image.GetImage() == "" {
			t.Errorf("image %v, reference %q, id %q", s.Image, s.ImageRef, s.ImageId)
		}
	}
	id := f.Create(f.pod, f.pc, c)
	created := f.Status(id)
	check(created, runtimeapi.ContainerState_CONTAINER_CREATED)
	want(t, "start of what is not started", created.StartedAt, 0)
	want(t, "end of what is not started", created.FinishedAt, 0)
	if err := f.Runtime.StartContainer(f.Ctx(), id); err != nil {
		t.Fatal(err)
	}
	exited := f.WaitExited(id)
	check(exited, runtimeapi.ContainerState_CONTAINER_EXITED)
	want(t, "exit code", exited.ExitCode, 9)
	want(t, "reason", exited.Reason, "Error")
	want(t, "created at", exited.CreatedAt, created.CreatedAt)
	if exited.CreatedAt <= 0 || exited.StartedAt < exited.CreatedAt || exited.FinishedAt < exited.StartedAt {
		t.Errorf("created at %d, started at %d, finished at %d", exited.CreatedAt, exited.StartedAt, exited.FinishedAt)
	}
	list, err := f.Runtime.ListContainers(f.Ctx(), &runtimeapi.ContainerFilter{Id: id})
	if err != nil || len(list) != 1 {
		t.Fatalf("list: %v, %v", list, err)
	}
	l := list[0]
	want(t, "pod", l.PodSandboxId, f.pod)
	if l.Metadata.String() != c.Metadata.String() || !maps.Equal(l.Labels, c.Labels) || !maps.Equal(l.Annotations, c.Annotations) ||
		l.State != exited.State || l.CreatedAt != exited.CreatedAt || l.ImageRef != exited.ImageRef || l.ImageId != exited.ImageId {
		t.Errorf("the list says %v, the status %v", l, exited)
	}
	if err := f.Runtime.StartContainer(f.Ctx(), id); err == nil {
		t.Error("a container is started twice")
	}
}

// TestContainerFilters: every field of a filter narrows the list; all that are set have to match.
func TestContainerFilters(t *testing.T) {
	f := start(t)
	secondConfig := f.HostPodConfig()
	second := f.RunPod(secondConfig)
	labelled := func(tier string) *runtimeapi.ContainerConfig {
		c := f.sh(forever)
		c.Labels = map[string]string{"app": "x", "tier": tier}
		return c
	}
	running := f.Run(f.pod, f.pc, labelled("front"))
	created := f.Create(f.pod, f.pc, labelled("back"))
	exited := f.Run(second, secondConfig, f.sh("true"))
	f.WaitExited(exited)
	state := func(s runtimeapi.ContainerState) *runtimeapi.ContainerStateValue {
		return &runtimeapi.ContainerStateValue{State: s}
	}
	for _, c := range []struct {
		what   string
		filter *runtimeapi.ContainerFilter
		ids    []string
	}{
		{"no filter", nil, []string{running, created, exited}},
		{"id", &runtimeapi.ContainerFilter{Id: created}, []string{created}},
		{"start of an id", &runtimeapi.ContainerFilter{Id: created[:20]}, []string{created}},
		{"unknown id", &runtimeapi.ContainerFilter{Id: "0123456789"}, nil},
		{"pod", &runtimeapi.ContainerFilter{PodSandboxId: f.pod}, []string{running, created}},
		{"unknown pod", &runtimeapi.ContainerFilter{PodSandboxId: "0123456789"}, nil},
		{"running", &runtimeapi.ContainerFilter{State: state(runtimeapi.ContainerState_CONTAINER_RUNNING)}, []string{running}},
		{"created", &runtimeapi.ContainerFilter{State: state(runtimeapi.ContainerState_CONTAINER_CREATED)}, []string{created}},
		{"exited", &runtimeapi.ContainerFilter{State: state(runtimeapi.ContainerState_CONTAINER_EXITED)}, []string{exited}},
		{"label", &runtimeapi.ContainerFilter{LabelSelector: map[string]string{"app": "x"}}, []string{running, created}},
		{"labels", &runtimeapi.ContainerFilter{LabelSelector: map[string]string{"app": "x", "tier": "back"}}, []string{created}},
		{"pod and state", &runtimeapi.ContainerFilter{PodSandboxId: second, State: state(runtimeapi.ContainerState_CONTAINER_RUNNING)}, nil},
	} {
		got, err := f.Runtime.ListContainers(f.Ctx(), c.filter)
		wantIDs(t, c.what, got, err, c.ids...)
	}
}

// TestContainerEnds: StopContainer and RemoveContainer may be called again and on what is unknown; the grace period is kept.
func TestContainerEnds(t *testing.T) {
	f := start(t)
	obeys := f.Run(f.pod, f.pc, f.sh("trap 'exit 4' TERM; echo up; while :; do sleep 0.05; done"))
	f.Eventually("it has set its trap", func() error {
		if len(f.ContainerLog(obeys)) == 0 {
			return errors.New("no output")
		}
		return nil
	})
	began := time.Now()
	for range 2 {
		wantCode(t, "stop", f.Runtime.StopContainer(f.Ctx(), obeys, 600), codes.OK)
	}
	if took := time.Since(began); took > 300*time.Second {
		t.Errorf("the grace period is waited for, although it has ended: %v", took)
	}
	want(t, "exit code", f.Status(obeys).ExitCode, 4)

	deaf := f.Run(f.pod, f.pc, f.sh("trap '' TERM; while :; do sleep 0.05; done"))
	wantCode(t, "stop at once", f.Runtime.StopContainer(f.Ctx(), deaf, 0), codes.OK)
	want(t, "exit code of what is killed", f.Status(deaf).ExitCode, 137)

	// "If the container is running, the container must be forcibly removed."
	running := f.Run(f.pod, f.pc, f.sh(forever))
	for _, id := range []string{running, obeys, deaf} {
		for range 2 {
			wantCode(t, "remove", f.Runtime.RemoveContainer(f.Ctx(), id), codes.OK)
		}
		_, err := f.Runtime.ContainerStatus(f.Ctx(), id, false)
		wantCode(t, "status of a removed container", err, codes.NotFound)
		wantCode(t, "stop of a removed container", f.Runtime.StopContainer(f.Ctx(), id, 0), codes.OK)
		_, _, err = f.Runtime.ExecSync(f.Ctx(), id, []string{"true"}, time.Second)
		wantCode(t, "exec in a removed container", err, codes.NotFound)
		wantCode(t, "start of a removed container", f.Runtime.StartContainer(f.Ctx(), id), codes.NotFound)
		_, err = f.Runtime.ContainerStats(f.Ctx(), id)
		wantCode(t, "statistics of a removed container", err, codes.NotFound)
	}
	_, err := f.Runtime.CreateContainer(f.Ctx(), "0123456789", f.sh("true"), f.pc)
	wantCode(t, "container in an unknown pod", err, codes.NotFound)
	c := f.sh("true")
	c.Image.Image = "127.0.0.1:1/not-pulled:1"
	if _, err = f.Runtime.CreateContainer(f.Ctx(), f.pod, c, f.pc); err == nil {
		t.Error("a container of an image that is not there is created")
	}
}

// TestContainerProcess: command, arguments, directory, environment, terminal and standard input are what was asked for.
func TestContainerProcess(t *testing.T) {
	f := start(t)
	c := f.ContainerConfig(f.image, "sh", "-c")
	c.Args = []string{`echo "$0 $# $1"; pwd; echo "$A-$B"; test -t 0 || echo no terminal; read x || echo no input`, "name", "one two"}
	c.WorkingDir = "/made/for/it" // is made if it is not in the image
	c.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte("a b")}, {Key: "B", Value: []byte("$A=x")}}
	want(t, "output", f.output(c), "name 1 one two\n/made/for/it\na b-$A=x\nno terminal\nno input\n")

	c = f.sh("test -t 0 && test -t 1 && echo a terminal")
	c.Tty = true
	want(t, "output on a terminal", f.output(c), "a terminal\r\n")

	c = f.ContainerConfig(f.image) // the image's own command: a shell, which ends as it has no input
	want(t, "output of the image's command", f.output(c), "")
}
