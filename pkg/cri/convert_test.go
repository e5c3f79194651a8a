// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/pkg/exitbpf"
	"github.com/embedcri/embedcri/pkg/image"
	"github.com/embedcri/embedcri/pkg/task"
)

const (
	created = runtimeapi.ContainerState_CONTAINER_CREATED
	running = runtimeapi.ContainerState_CONTAINER_RUNNING
	exited  = runtimeapi.ContainerState_CONTAINER_EXITED
	unknown = runtimeapi.ContainerState_CONTAINER_UNKNOWN
)

func exitStatus(code int) unix.WaitStatus      { return unix.WaitStatus(code << 8) }
func killedBy(sig unix.Signal) unix.WaitStatus { return unix.WaitStatus(sig) }

// TestContainerStatusByState is the table of style 2.4 as the CRI sees it.
func TestContainerStatusByState(t *testing.T) {
	start, finish := time.Unix(2, 7), time.Unix(3, 9)
	for _, tc := range []struct {
		state             task.State
		want              runtimeapi.ContainerState
		started, finished int64
	}{
		{task.Created, created, 0, 0},
		{task.Starting, created, 0, 0},
		{task.Running, running, start.UnixNano(), 0},
		{task.Exited, exited, start.UnixNano(), finish.UnixNano()},
		{task.Removing, exited, start.UnixNano(), finish.UnixNano()},
		{task.Unknown, unknown, start.UnixNano(), 0},
	} {
		_, _, c := node()
		st := task.Status{State: tc.state, StartedAt: start, FinishedAt: finish, Exit: &task.Exit{Known: true, Wait: exitStatus(3)}}
		got := containerStatus(c, st)
		if got.State != tc.want || got.StartedAt != tc.started || got.FinishedAt != tc.finished {
			t.Errorf("%s: %v, started %d, finished %d", tc.state, got.State, got.StartedAt, got.FinishedAt)
		}
		if wantCode := tc.want == exited; (got.ExitCode == 3) != wantCode || (got.Reason == "Error") != wantCode {
			t.Errorf("%s: code %d, reason %q", tc.state, got.ExitCode, got.Reason)
		}
	}
	if listed(task.Creating) {
		t.Error("a container is listed before it is created")
	}
	if c, s := nanoseconds(time.Time{}), nanoseconds(time.Unix(0, 1)); c != 0 || s != 1 {
		t.Errorf("zero time is %d, one nanosecond is %d", c, s)
	}
}

func TestExitReasonAndMessage(t *testing.T) {
	at := time.Date(2026, 11, 23, 10, 0, 0, 5, time.UTC)
	for name, tc := range map[string]struct {
		status          task.Status
		code            int32
		reason, message string
	}{
		"success":  {status: task.Status{Exit: &task.Exit{Known: true}}, reason: "Completed"},
		"exit 42":  {status: task.Status{Exit: &task.Exit{Known: true, Wait: exitStatus(42)}}, code: 42, reason: "Error"},
		"no trace": {status: task.Status{Exit: &task.Exit{}}, code: 255, reason: "Unknown", message: "the process is gone and left no record of its exit"},
		"killed, by whom is not known": {
			status: task.Status{Exit: &task.Exit{Known: true, Wait: killedBy(unix.SIGKILL)}},
			code:   137, reason: "Error", message: "killed by SIGKILL",
		},
		"killed by a process": {
			status: task.Status{Exit: &task.Exit{Known: true, Wait: killedBy(unix.SIGKILL), Killer: &exitbpf.Sender{Signal: unix.SIGKILL, Pid: 4242, Comm: "stress-ng", At: at}}},
			code:   137, reason: "Error", message: "killed by SIGKILL from pid 4242 (stress-ng), uid 0, at 2026-11-23T10:00:00.000000005Z",
		},
		"killed by a process with a name to fool us": {
			status: task.Status{Exit: &task.Exit{Known: true, Wait: killedBy(unix.SIGTERM), Killer: &exitbpf.Sender{Pid: 7, UID: 1000, Comm: "a\n\xffb\x1b"}}},
			code:   143, reason: "Error", message: "killed by SIGTERM from pid 7 (a??b?), uid 1000",
		},
		"killed by the kernel": {
			status: task.Status{Exit: &task.Exit{Known: true, Wait: killedBy(unix.SIGSEGV) | 0x80, Killer: &exitbpf.Sender{Kernel: true, At: at}}},
			code:   139, reason: "Error", message: "killed by SIGSEGV from the kernel, at 2026-11-23T10:00:00.000000005Z, core dumped",
		},
		"real-time signal": {
			status: task.Status{Exit: &task.Exit{Known: true, Wait: killedBy(40)}},
			code:   168, reason: "Error", message: "killed by SIGRTMIN+6",
		},
		"out of memory": {
			status: task.Status{Exit: &task.Exit{Known: true, OOM: true, Wait: killedBy(unix.SIGKILL), Killer: &exitbpf.Sender{Kernel: true}}},
			code:   137, reason: "OOMKilled", message: "killed by SIGKILL from the kernel, out of memory",
		},
		"killed by one of its own": {
			status: task.Status{Exit: &task.Exit{Known: true, Wait: killedBy(unix.SIGABRT), CgroupID: 9, Killer: &exitbpf.Sender{Pid: 7, Comm: "app", CgroupID: 9}}},
			code:   134, reason: "Error", message: "killed by SIGABRT from pid 7 (app), uid 0, in the container itself",
		},
		"killed by somebody out of sight": {
			status: task.Status{Exit: &task.Exit{Known: true, Wait: killedBy(unix.SIGKILL), Killer: &exitbpf.Sender{Comm: "agent"}}},
			code:   137, reason: "Error", message: "killed by SIGKILL from a process of another pid namespace (agent), uid 0",
		},
		"seccomp": {
			status: task.Status{Exit: &task.Exit{Known: true, Wait: killedBy(unix.SIGSYS), Killer: &exitbpf.Sender{Kernel: true}}},
			code:   159, reason: "Error", message: "killed by SIGSYS from the kernel, system call forbidden by seccomp",
		},
		"a child was out of memory": {
			status: task.Status{Exit: &task.Exit{Known: true, Wait: exitStatus(137), OOMKills: 1}},
			code:   137, reason: "Error", message: "exited by itself; out of memory, the kernel had killed 1 process in the container",
		},
		"what the task says goes first": {
			status: task.Status{Exit: &task.Exit{Known: true, Wait: exitStatus(127)}, Reason: "StartError", Message: "exec: no such file\xff"},
			code:   127, reason: "StartError", message: "exec: no such file\uFFFD",
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, c := node()
			tc.status.State = task.Exited
			got := containerStatus(c, tc.status)
			if got.ExitCode != tc.code || got.Reason != tc.reason || got.Message != tc.message {
				t.Errorf("%d %q %q", got.ExitCode, got.Reason, got.Message)
			}
			if _, err := proto.Marshal(got); err != nil {
				t.Errorf("cannot be sent: %v", err)
			}
		})
	}
}

// TestContainerFields checks what the kubelet reads (cri-client verifyContainerStatus, kuberuntime).
func TestContainerFields(t *testing.T) {
	_, _, c := node()
	st := containerStatus(c, c.status)
	item := containerItem(c, c.status)
	for name, pair := range map[string][2]string{
		"image is what the user wrote":      {st.Image.Image, "registry.example/app:v1"},
		"image_ref is the digest":           {st.ImageRef, "registry.example/app@sha256:ff"},
		"image_id is PullImage's image_ref": {st.ImageId, "sha256:1d"},
		"list: image":                       {item.Image.Image, st.Image.Image},
		"list: image_ref":                   {item.ImageRef, st.ImageRef},
		"list: image_id":                    {item.ImageId, st.ImageId},
		"list: pod":                         {item.PodSandboxId, podID},
		"log path":                          {st.LogPath, "/var/log/pods/x/0.log"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %q, want %q", name, pair[0], pair[1])
		}
	}
	if st.CreatedAt != time.Unix(1, 5).UnixNano() || item.CreatedAt != st.CreatedAt {
		t.Errorf("created_at %d and %d", st.CreatedAt, item.CreatedAt)
	}
	c.imageRef = ""
	c.config.Image.UserSpecifiedImage = ""
	if st := containerStatus(c, c.status); st.ImageRef != "sha256:1d" || st.Image.Image != "sha256:1d" {
		t.Errorf("image without a digest: image %q, image_ref %q", st.Image.Image, st.ImageRef)
	}
}

// TestBrokenRecord: what cannot be read is still listed, so that it can be removed.
func TestBrokenRecord(t *testing.T) {
	c := &fakeContainer{id: ctrID, pod: &fakePod{id: podID}}
	st := task.Status{State: task.Unknown}
	if i := containerItem(c, st); i.Metadata == nil || i.Image == nil || i.State != unknown {
		t.Errorf("%v", i)
	}
	if s := containerStatus(c, st); s.Metadata == nil || s.GetImage().GetImage() == "" || s.ImageRef == "" || s.FinishedAt != 0 {
		t.Errorf("%v", s)
	}
	if p := podItem(c.pod, c.pod.status); p.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("%v", p)
	}
}

func TestPodFields(t *testing.T) {
	_, p, _ := node()
	st := podStatus(p, p.status)
	if st.State != runtimeapi.PodSandboxState_SANDBOX_READY || st.Network.Ip != "10.0.0.2" ||
		len(st.Network.AdditionalIps) != 1 || st.Network.AdditionalIps[0].Ip != "fd00::2" {
		t.Errorf("%v", st)
	}
	if st.Annotations["odd"] != " kept as it is\n" || podItem(p, p.status).Annotations["odd"] != " kept as it is\n" {
		t.Error("annotations were altered")
	}
	p.status.Ready, p.status.IPs = false, nil
	if st := podStatus(p, p.status); st.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY || st.Network == nil || st.Network.Ip != "" {
		t.Errorf("%v", st)
	}
}

func TestImageUser(t *testing.T) {
	for user, want := range map[string]struct {
		uid  *runtimeapi.Int64Value
		name string
	}{
		"":          {nil, ""},
		"0":         {&runtimeapi.Int64Value{}, ""},
		"1000:1000": {&runtimeapi.Int64Value{Value: 1000}, ""},
		"www:www":   {nil, "www"},
		":5":        {nil, ""},
	} {
		i := imageItem(&image.Image{ID: "sha256:1d", Config: ocispec.ImageConfig{User: user}})
		if !proto.Equal(i.Uid, want.uid) || i.Username != want.name {
			t.Errorf("%q: %v, %q", user, i.Uid, i.Username)
		}
		if i.Size == 0 {
			t.Error("an image of size 0")
		}
	}
}

// TestInfo checks the shape that crictl and the scripts around it know.
func TestInfo(t *testing.T) {
	_, p, c := node()
	info, err := containerInfo(c, c.status)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		SandboxID   string
		Pid         int
		Note        string
		RuntimeSpec struct{ OCIVersion string }
		Config      struct{ Envs []struct{ Key, Value string } }
	}
	if err := json.Unmarshal([]byte(info["info"]), &got); err != nil {
		t.Fatal(err)
	}
	if got.SandboxID != podID || got.Pid != 42 || got.RuntimeSpec.OCIVersion != "1.2.0" || got.Note != "not json" || got.Config.Envs[0].Value != "hunter2" {
		t.Errorf("%+v from %s", got, info["info"])
	}
	if info, err = podInfo(p, p.status); err != nil || !strings.Contains(info["info"], ctrID) {
		t.Errorf("%v, %v", info, err)
	}
}

func TestFilters(t *testing.T) {
	pod := &runtimeapi.PodSandbox{Id: podID, State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY, Labels: map[string]string{"a": "1", "b": ""}}
	for name, tc := range map[string]struct {
		f    *runtimeapi.PodSandboxFilter
		want bool
	}{
		"none":                         {nil, true},
		"empty":                        {&runtimeapi.PodSandboxFilter{}, true},
		"id":                           {&runtimeapi.PodSandboxFilter{Id: podID}, true},
		"prefix":                       {&runtimeapi.PodSandboxFilter{Id: podID[:12]}, true},
		"other id":                     {&runtimeapi.PodSandboxFilter{Id: ctrID}, false},
		"ready, which is 0":            {&runtimeapi.PodSandboxFilter{State: &runtimeapi.PodSandboxStateValue{}}, false},
		"not ready":                    {&runtimeapi.PodSandboxFilter{State: &runtimeapi.PodSandboxStateValue{State: 1}}, true},
		"label":                        {&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"a": "1"}}, true},
		"empty label":                  {&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"b": ""}}, true},
		"missing label is not empty":   {&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"c": ""}}, false},
		"all of the labels":            {&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"a": "1", "b": "2"}}, false},
		"all of the fields: one fails": {&runtimeapi.PodSandboxFilter{Id: podID, LabelSelector: map[string]string{"a": "2"}}, false},
	} {
		if got := matchPod(tc.f, pod); got != tc.want {
			t.Errorf("pod filter %q: %v", name, got)
		}
	}
	ctr := &runtimeapi.Container{Id: ctrID, PodSandboxId: podID, State: running, Labels: map[string]string{"a": "1"}}
	for name, tc := range map[string]struct {
		f    *runtimeapi.ContainerFilter
		want bool
	}{
		"none":      {nil, true},
		"pod":       {&runtimeapi.ContainerFilter{PodSandboxId: podID}, true},
		"other pod": {&runtimeapi.ContainerFilter{PodSandboxId: ctrID}, false},
		"created":   {&runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: created}}, false},
		"running":   {&runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: running}}, true},
		"label":     {&runtimeapi.ContainerFilter{LabelSelector: map[string]string{"a": "0"}}, false},
	} {
		if got := matchContainer(tc.f, ctr); got != tc.want {
			t.Errorf("container filter %q: %v", name, got)
		}
	}
}
