// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/cgroup"
	"github.com/embedcri/embedcri/internal/testenv"
	"github.com/embedcri/embedcri/internal/testnode"
)

// feature is one thing that a container can be asked for. Its test changes the request it is given, and compares what the
// container's process, an exec beside it and the host see with what was asked.
type feature struct {
	name string
	test func(b *bed)
}

// bed is a request for a container in a pod of its own, on the host's network, under one runtime handler.
type bed struct {
	*testnode.Node
	t       *testing.T
	handler string
	dir     string // on the host, for whatever the test mounts
	cdi     string // directory of CDI descriptions
	pc      *runtimeapi.PodSandboxConfig
	cfg     *runtimeapi.ContainerConfig
	pod     string // once there is one
}

// TestContainer runs every feature under every runtime.
func TestContainer(t *testing.T) {
	cdi := t.TempDir()
	signal.Ignore(unix.SIGHUP) // as nohup does; the daemon inherits that, its containers must not
	defer signal.Reset(unix.SIGHUP)
	n := testnode.Start(t, testnode.Options{
		NoNetwork: true, Crun: testenv.Has(testenv.Crun),
		HandlerConfig: `rlimits = ["nofile=512:1024", "core=0"]
pids_limit = 333
device_ownership = true
pod_annotations = ["pod.example.com/*"]
container_annotations = ["ctr.example.com/this"]
`,
		// A third handler, of the same binary as the first.
		Config: fmt.Sprintf(`[cdi]
spec_dirs = [%q]
[runtime.handlers.strict]
path = %q
unset_seccomp = "runtime/default"
privileged_without_host_devices = true
`, cdi, testenv.RuncPath(t)),
	})
	for _, image := range []string{"busybox:1", "busybox:2", "config:1"} {
		n.Pull(registry.Ref(t, image))
	}
	t.Run("strict", func(t *testing.T) { handlerOptions(newBed(t, n, "strict", cdi)) })
	for _, handler := range []string{"runc", "crun"} {
		t.Run(handler, func(t *testing.T) {
			if handler == "crun" {
				testenv.Require(t, testenv.Crun)
			}
			for _, f := range slices.Concat(processFeatures, userFeatures, securityFeatures, mountFeatures, volumeFeatures, deviceFeatures, resourceFeatures, taskFeatures) {
				t.Run(f.name, func(t *testing.T) {
					t.Parallel()
					f.test(newBed(t, n, handler, cdi))
				})
			}
		})
	}
}

func newBed(t *testing.T, n *testnode.Node, handler, cdi string) *bed {
	n = n.In(t)
	b := &bed{Node: n, t: t, handler: handler, cdi: cdi, pc: n.HostPodConfig()}
	b.cfg = b.request()
	b.dir = filepath.Join(n.Dir, "bed", b.cfg.Metadata.Name)
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return b
}

// request returns a plain request. Its log is told apart by the container's name.
func (b *bed) request() *runtimeapi.ContainerConfig {
	return b.ContainerConfig(registry.Ref(b.t, "busybox:1"))
}

func (b *bed) sc() *runtimeapi.LinuxContainerSecurityContext { return b.cfg.Linux.SecurityContext }

// create creates the container that is asked for now, and a fresh request for the next.
func (b *bed) create() string {
	b.t.Helper()
	b.runPod()
	defer func() { b.cfg = b.request() }()
	return b.Create(b.pod, b.pc, b.cfg)
}

func (b *bed) start() string {
	b.t.Helper()
	id := b.create()
	if err := b.Runtime.StartContainer(b.Ctx(), id); err != nil {
		b.t.Fatalf("start container: %v", err)
	}
	return id
}

func (b *bed) runPod() {
	b.t.Helper()
	if b.pod != "" {
		return
	}
	b.pod = b.RunPodOn(b.handler, b.pc)
	b.t.Cleanup(func() { // not left to the node's end: the machine would fill up
		if err := errors.Join(b.Runtime.StopPodSandbox(b.Ctx(), b.pod), b.Runtime.RemovePodSandbox(b.Ctx(), b.pod)); err != nil {
			b.t.Error(err)
		}
	})
}

// refused wants that the container that is asked for now is not created, and a fresh request.
func (b *bed) refused(code codes.Code, text string) {
	b.t.Helper()
	b.runPod()
	b.cfg.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	_, err := b.Runtime.CreateContainer(b.Ctx(), b.pod, b.cfg, b.pc)
	want(b.t, err, code, text)
	b.cfg = b.request()
}

// text is what a container has logged, line by line.
func (b *bed) text(id string) []string {
	b.t.Helper()
	lines := b.ContainerLog(id)
	for i, l := range lines {
		_, l, _ = strings.Cut(l, " ") // stdout
		_, lines[i], _ = strings.Cut(l, " ")
	}
	return lines
}

// ran runs the container that is asked for now to its end and returns what it wrote.
func (b *bed) ran() []string {
	b.t.Helper()
	id := b.start()
	if s := b.WaitExited(id); s.ExitCode != 0 {
		b.t.Errorf("exit code %d, %s: %s; log %q", s.ExitCode, s.Reason, s.Message, b.text(id))
	}
	return b.text(id)
}

// says starts a container that runs script and then sleeps, and wants the lines from its first process and from an exec of the
// same script. It returns the container.
func (b *bed) says(script string, lines ...string) string {
	b.t.Helper()
	script = "exec 2>&1\n" + script
	b.cfg.Command = []string{"sh", "-c", script + "\necho THE END\nexec sleep 1000"}
	id := b.start()
	b.Eventually("container runs its script", func() error {
		if got := b.text(id); len(got) > 0 && got[len(got)-1] == "THE END" {
			return nil
		}
		if s := b.Status(id); s.State == runtimeapi.ContainerState_CONTAINER_EXITED {
			b.t.Fatalf("it has exited with code %d, %s: %s; log %q", s.ExitCode, s.Reason, s.Message, b.text(id))
		}
		return fmt.Errorf("log %q", b.text(id))
	})
	got := b.text(id)
	b.equal("container", got[:len(got)-1], lines)
	b.equal("exec", b.exec(id, script), lines)
	return id
}

// exec returns the lines that a script writes in an exec; its exit code does not matter.
func (b *bed) exec(id, script string) []string {
	b.t.Helper()
	out, errOut, err := b.Runtime.ExecSync(b.Ctx(), id, []string{"sh", "-c", script + "\ntrue"}, 20*time.Second)
	if err != nil {
		b.t.Fatalf("exec: %v %s", err, errOut)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
}

func (b *bed) equal(who string, got, lines []string) {
	b.t.Helper()
	if !slices.Equal(got, lines) {
		b.t.Errorf("%s says\n\t%s\nwant\n\t%s", who, strings.Join(got, "\n\t"), strings.Join(lines, "\n\t"))
	}
}

// spec returns the OCI specification that the container was made from.
func (b *bed) spec(id string) *specs.Spec {
	b.t.Helper()
	return b.info(id).RuntimeSpec
}

// cgroup returns the container's cgroup, wherever the cgroup driver has put it.
func (b *bed) cgroup(id string) *cgroup.Cgroup {
	b.t.Helper()
	return cgroup.FromOCI(b.info(id).Cgroup)
}

type containerInfo struct {
	RuntimeSpec *specs.Spec
	Cgroup      string
}

func (b *bed) info(id string) containerInfo {
	b.t.Helper()
	r, err := b.Runtime.ContainerStatus(b.Ctx(), id, true)
	if err != nil {
		b.t.Fatal(err)
	}
	var info containerInfo
	if err := json.Unmarshal([]byte(r.Info["info"]), &info); err != nil || info.RuntimeSpec == nil || info.Cgroup == "" {
		b.t.Fatalf("runtimeSpec and cgroup in %s: %v", r.Info, err)
	}
	return info
}

// mkdir makes a directory below the bed's own and returns its path.
func (b *bed) mkdir(name string) string {
	b.t.Helper()
	p := filepath.Join(b.dir, name)
	if err := os.MkdirAll(p, 0o755); err != nil {
		b.t.Fatal(err)
	}
	return p
}

// write writes a file below the bed's directory, with exactly this mode, and returns its path.
func (b *bed) write(name, content string, mode os.FileMode) string {
	b.t.Helper()
	p := filepath.Join(b.dir, name)
	if err := errors.Join(os.WriteFile(p, []byte(content), mode), os.Chmod(p, mode)); err != nil {
		b.t.Fatal(err)
	}
	return p
}
