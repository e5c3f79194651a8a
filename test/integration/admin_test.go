// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
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

// TestStateCommand looks at a node whose daemon is dead: what is on record, and the exit that only the kernel has seen.
func TestStateCommand(t *testing.T) {
	n := testnode.New(t, testnode.Options{NoNetwork: true})
	if out, err := embedcri(n, "state"); err == nil || !strings.Contains(out, "no records") {
		t.Errorf("state of a node that never was: %v %s", err, out)
	}
	n.Start()
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pc := n.HostPodConfig()
	pod := n.RunPod(pc)
	ctr := n.Run(pod, pc, n.ContainerConfig(ref, "sh", "-c", "while [ ! -e /stop ]; do sleep 0.02; done; exit 42"))
	root := filepath.Join(n.State, "task", ctr, "rootfs")
	n.Kill()
	row := func(parts ...string) func() error {
		return func() error {
			out, err := embedcri(n, "state")
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			for line := range strings.Lines(out) {
				all := true
				for _, p := range parts {
					all = all && strings.Contains(line, p)
				}
				if all {
					return nil
				}
			}
			return fmt.Errorf("no line with %q in:\n%s", parts, out)
		}
	}
	n.Eventually("the pod is on record", row(pod[:13], pc.Metadata.Name, "ready"))
	n.Eventually("the container is on record", row(ctr[:13], pod[:13], "running"))
	n.Eventually("its init is watched", row(ctr[:16], "lives"))
	if err := os.WriteFile(filepath.Join(root, "stop"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n.Eventually("the kernel has the exit", row(ctr[:16], "wait status 0x2a00"))
	n.Start()
	n.Eventually("the exit is on record", row(ctr[:13], pod[:13], "exited", "42 at "))

	n.Kill()
	status := filepath.Join(n.Dir, "root", "state", "containers", ctr, "status.json")
	good, err := os.ReadFile(status)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(status, good[:len(good)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	n.Eventually("a torn record is shown as one", row(ctr[:13], "damaged record"))
	if err := os.WriteFile(status, good, 0o600); err != nil {
		t.Fatal(err)
	}
	n.Start()
}

// TestProfiles: what the daemon is busy with can be asked for, by root, on the admin socket.
func TestProfiles(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	c := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(n.State, "admin.sock"))
		},
	}}
	for path, want := range map[string]string{"goroutine?debug=1": "goroutine profile:", "heap?debug=1": "heap profile:"} {
		r, err := c.Get("http://embedcri/debug/pprof/" + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil || r.StatusCode != http.StatusOK || !strings.HasPrefix(string(body), want) {
			t.Errorf("%s: %v %s %.100s", path, err, r.Status, body)
		}
	}
}
