// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/embedcri/embedcri/internal/testnode"
)

// embedcri runs a subcommand against a node's daemon.
func embedcri(n *testnode.Node, command string, args ...string) (string, error) {
	out, err := n.Command(command, args...).CombinedOutput()
	return string(out), err
}

// TestPauseAndResume freezes a container for somebody to look at, also across a restart of the daemon.
func TestPauseAndResume(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pc := n.HostPodConfig()
	pod := n.RunPod(pc)
	ctr := n.Run(pod, pc, n.ContainerConfig(ref, "sh", "-c", "while :; do echo tick; sleep 0.02; done"))
	pause := func(verb string) {
		t.Helper()
		for range 2 { // again is no error
			if out, err := embedcri(n, "task", verb, ctr[:12]); err != nil {
				t.Fatalf("%s: %v %s", verb, err, out)
			}
		}
	}
	pause("pause")
	_, _, err := n.Runtime.ExecSync(n.Ctx(), ctr, []string{"true"}, time.Second)
	want(t, err, codes.FailedPrecondition, "paused")
	n.Kill()
	n.Start()
	_, _, err = n.Runtime.ExecSync(n.Ctx(), ctr, []string{"true"}, time.Second)
	want(t, err, codes.FailedPrecondition, "paused")
	ticks := len(n.ContainerLog(ctr))
	pause("resume")
	n.Eventually("ticks go on", func() error {
		if got := len(n.ContainerLog(ctr)); got <= ticks {
			return os.ErrDeadlineExceeded
		}
		return nil
	})
	pause("pause")
	if err := n.Runtime.StopContainer(n.Ctx(), ctr, 1); err != nil {
		t.Error(err)
	}
	if s := n.Status(ctr); s.ExitCode != 137 && s.ExitCode != 143 {
		t.Errorf("stopped while paused: code %d", s.ExitCode)
	}
	if out, err := embedcri(n, "task", "pause", ctr); err == nil || !strings.Contains(out, "not running") {
		t.Errorf("pause of a stopped container: %v %s", err, out)
	}
	if out, err := embedcri(n, "task", "pause", "../x"); err == nil {
		t.Errorf("pause of a path: %s", out)
	}
}

// TestImageCommands moves an image from one node to another as a file, as on a node without a registry.
func TestImageCommands(t *testing.T) {
	a := testnode.Start(t, testnode.Options{NoNetwork: true})
	b := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref := registry.Ref(t, "busybox:1")
	id, err := embedcri(a, "image", "pull", ref)
	if err != nil || !strings.Contains(id, "sha256:") {
		t.Fatalf("pull: %v %s", err, id)
	}
	archive := filepath.Join(t.TempDir(), "image.tar")
	if out, err := embedcri(a, "image", "export", archive, ref); err != nil {
		t.Fatalf("export: %v %s", err, out)
	}
	if out, err := embedcri(b, "image", "import", archive); err != nil || !strings.Contains(out, "busybox") {
		t.Fatalf("import: %v %s", err, out)
	}
	for _, n := range []*testnode.Node{a, b} {
		if out, err := embedcri(n, "image", "ls"); err != nil || !strings.Contains(out, ref) {
			t.Errorf("ls: %v %s", err, out)
		}
	}
	pc := b.HostPodConfig()
	pod := b.RunPod(pc)
	ctr := b.Run(pod, pc, b.ContainerConfig(ref, "true"))
	if s := b.WaitExited(ctr); s.ExitCode != 0 {
		t.Errorf("container of an imported image: code %d", s.ExitCode)
	}
	if out, err := embedcri(a, "image", "rm", ref); err != nil {
		t.Errorf("rm: %v %s", err, out)
	}
	if out, err := embedcri(a, "image", "export", archive+"2", ref); err == nil || !strings.Contains(out, "not found") {
		t.Errorf("export of what is not there: %v %s", err, out)
	}
	if _, err := os.Stat(archive + "2"); err == nil {
		t.Error("a failed export left its file")
	}
	if out, err := embedcri(a, "image", "pull", registry.Addr+"/none:1"); err == nil || !strings.Contains(out, "none:1") {
		t.Errorf("pull of what is not there: %v %s", err, out)
	}
}
