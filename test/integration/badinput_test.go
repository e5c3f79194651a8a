// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testnode"
)

// want checks the code of an error and that its text names what was wrong.
func want(t testing.TB, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), text) {
		t.Errorf("got %v; want %v naming %q", err, code, text)
	}
}

// TestBadInput wants an error that names the field, and nothing left behind: testnode looks when the test ends, and the lists are
// looked at here.
func TestBadInput(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pc := n.HostPodConfig()
	pod := n.RunPod(pc)
	ctx := n.Ctx()

	for name, c := range map[string]struct {
		change  func(*runtimeapi.PodSandboxConfig)
		handler string
		code    codes.Code
		text    string
	}{
		"no metadata":     {func(c *runtimeapi.PodSandboxConfig) { c.Metadata = nil }, "", codes.InvalidArgument, "metadata"},
		"no name":         {func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "" }, "", codes.InvalidArgument, "name"},
		"unknown handler": {func(*runtimeapi.PodSandboxConfig) {}, "nope", codes.NotFound, "nope"},
		"host sysctl": {func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"net.ipv4.ip_forward": "1"} }, "",
			codes.InvalidArgument, "net.ipv4.ip_forward"},
	} {
		t.Run("pod/"+name, func(t *testing.T) {
			pc := n.HostPodConfig()
			c.change(pc)
			_, err := n.Runtime.RunPodSandbox(ctx, pc, c.handler)
			want(t, err, c.code, c.text)
		})
	}
	for name, c := range map[string]struct {
		change func(*runtimeapi.ContainerConfig)
		code   codes.Code
		text   string
	}{
		"no metadata":          {func(c *runtimeapi.ContainerConfig) { c.Metadata = nil }, codes.InvalidArgument, "metadata"},
		"no image":             {func(c *runtimeapi.ContainerConfig) { c.Image = nil }, codes.InvalidArgument, "image"},
		"unknown image":        {func(c *runtimeapi.ContainerConfig) { c.Image.Image = registry.Addr + "/none:1" }, codes.NotFound, "none:1"},
		"log leaves directory": {func(c *runtimeapi.ContainerConfig) { c.LogPath = "../../x.log" }, codes.InvalidArgument, "log_path"},
		"absolute log":         {func(c *runtimeapi.ContainerConfig) { c.LogPath = "/etc/x.log" }, codes.InvalidArgument, "log_path"},
		"unknown user":         {func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext.RunAsUsername = "nobody-such" }, codes.InvalidArgument, "run_as_username"},
		"group without user": {func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.RunAsGroup = &runtimeapi.Int64Value{Value: 7}
		}, codes.InvalidArgument, "run_as_group"},
		"privileged in this pod": {func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext.Privileged = true }, codes.InvalidArgument, "privileged"},
	} {
		t.Run("container/"+name, func(t *testing.T) {
			cfg := n.ContainerConfig(ref, "true")
			cfg.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
			c.change(cfg)
			_, err := n.Runtime.CreateContainer(ctx, pod, cfg, pc)
			want(t, err, c.code, c.text)
		})
	}
	t.Run("ids", func(t *testing.T) {
		for _, id := range []string{"../../etc", "/etc/passwd", "", strings.Repeat("a", 65)} {
			_, err := n.Runtime.PodSandboxStatus(ctx, id, false)
			want(t, err, codes.InvalidArgument, "id")
			_, err = n.Runtime.ContainerStatus(ctx, id, false)
			want(t, err, codes.InvalidArgument, "id")
			want(t, n.Runtime.StartContainer(ctx, id), codes.InvalidArgument, "id")
			_, err = n.Runtime.CreateContainer(ctx, id, n.ContainerConfig(ref, "true"), pc)
			want(t, err, codes.InvalidArgument, "id")
		}
		absent := strings.Repeat("ab", 32)
		_, err := n.Runtime.PodSandboxStatus(ctx, absent, false)
		want(t, err, codes.NotFound, absent)
		_, err = n.Runtime.ContainerStatus(ctx, absent, false)
		want(t, err, codes.NotFound, absent)
		want(t, n.Runtime.StartContainer(ctx, absent), codes.NotFound, absent)
		for _, err := range []error{
			n.Runtime.StopContainer(ctx, absent, 0), n.Runtime.RemoveContainer(ctx, absent),
			n.Runtime.StopPodSandbox(ctx, absent), n.Runtime.RemovePodSandbox(ctx, absent),
		} {
			if err != nil {
				t.Errorf("stop or remove of what is absent: %v", err)
			}
		}
	})
	if cs, err := n.Runtime.ListContainers(ctx, nil); err != nil || len(cs) != 0 {
		t.Errorf("containers left: %v, %v", cs, err)
	}
	if ps, err := n.Runtime.ListPodSandbox(ctx, nil); err != nil || len(ps) != 1 {
		t.Errorf("pods left: %v, %v", ps, err)
	}
	for _, dir := range []string{"task", "runtime/runc"} {
		if left, _ := filepath.Glob(filepath.Join(n.State, dir, "*")); len(left) != 0 {
			t.Errorf("left in the state directory: %v", left)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(n.Dir, "root", "state", "containers", "*")); len(left) != 0 {
		t.Errorf("records left: %v", left)
	}
	if _, err := os.Stat("/etc/x.log"); err == nil {
		t.Error("a log was made outside of its directory")
	}
}

// TestCommandThatIsNotThere wants the runtime's own words, and a container that shows what became of it.
func TestCommandThatIsNotThere(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pc := n.HostPodConfig()
	pod := n.RunPod(pc)
	for name, c := range map[string]struct {
		command []string
		code    int32
		words   string
	}{
		"not in PATH":    {[]string{"no-such-command"}, 127, "executable file not found in $PATH"},
		"no such file":   {[]string{"/no/such/file"}, 127, "no such file or directory"},
		"not executable": {[]string{"/etc/passwd"}, 126, "permission denied"},
		"a directory":    {[]string{"/etc"}, 126, ""},
	} {
		t.Run(name, func(t *testing.T) {
			id := n.Create(pod, pc, n.ContainerConfig(ref, c.command...))
			err := n.Runtime.StartContainer(n.Ctx(), id)
			if err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("start: %v; want %q", err, c.words)
			}
			s := n.Status(id)
			if s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != c.code || s.Reason != "StartError" ||
				!strings.Contains(s.Message, c.words) || s.FinishedAt == 0 {
				t.Errorf("status: %v, code %d, reason %q, message %q", s.State, s.ExitCode, s.Reason, s.Message)
			}
			if err := n.Runtime.RemoveContainer(n.Ctx(), id); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRepeatedCalls: the kubelet repeats a call that has timed out, and has to get the same object.
func TestRepeatedCalls(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pc := n.HostPodConfig()
	pod := n.RunPod(pc)
	if again := n.RunPod(pc); again != pod {
		t.Errorf("the same pod twice: %s and %s", pod, again)
	}
	other := n.HostPodConfig()
	other.Metadata = pc.Metadata
	_, err := n.Runtime.RunPodSandbox(n.Ctx(), other, "")
	want(t, err, codes.AlreadyExists, pod)

	cfg := n.ContainerConfig(ref, "true")
	ctr := n.Create(pod, pc, cfg)
	if again := n.Create(pod, pc, cfg); again != ctr {
		t.Errorf("the same container twice: %s and %s", ctr, again)
	}
	cfg2 := n.ContainerConfig(ref, "false")
	cfg2.Metadata = cfg.Metadata
	cfg2.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	_, err = n.Runtime.CreateContainer(n.Ctx(), pod, cfg2, pc)
	want(t, err, codes.AlreadyExists, ctr)
}
