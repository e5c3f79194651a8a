// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testenv"
	"github.com/embedcri/embedcri/internal/testnode"
)

// faultyNode is a node whose network is the bridge plug-in behind a script that can be told to go wrong.
type faultyNode struct {
	*testnode.Node
	t *testing.T
}

// faultyTimeout bounds a plug-in. A DEL by the real one has to make it on a busy machine.
var faultyTimeout = testenv.Slow(3 * time.Second)

func startFaultyNode(t *testing.T, timeout time.Duration) *faultyNode {
	t.Helper()
	n := &faultyNode{t: t, Node: testnode.New(t, testnode.Options{OwnNet: true, Network: fmt.Sprintf("timeout = %q", timeout)})}
	script := fmt.Sprintf("#!/bin/sh\nreal=%s/bridge\ndir=%s\n[ ! -e $dir/$CNI_COMMAND ] || . $dir/$CNI_COMMAND\nexec $real\n", testenv.CNIBin(t), n.Dir)
	if err := os.WriteFile(filepath.Join(n.CNIBin, "faulty"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	n.conf("faulty")
	n.Start()
	// The first pod makes the bridge, which stays.
	if err := n.Runtime.RemovePodSandbox(n.Ctx(), n.RunPod(n.PodConfig())); err != nil {
		t.Fatal(err)
	}
	return n
}

// conf makes a plug-in the node's network.
func (n *faultyNode) conf(plugin string) {
	n.t.Helper()
	text := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"yard","plugins":[{"type":%q,"bridge":%q,"isGateway":true,"ipam":{"type":"host-local","subnet":%q,"dataDir":"%s/root/cni/networks"}}]}`,
		plugin, n.Bridge, n.Subnet, n.Dir)
	target := filepath.Join(n.CNIConf, "10-yard.conflist")
	if err := os.WriteFile(target+".new", []byte(text), 0o644); err != nil {
		n.t.Fatal(err)
	}
	if err := os.Rename(target+".new", target); err != nil {
		n.t.Fatal(err)
	}
}

// fault makes a verb of the plug-in run a script first; an empty one mends it.
func (n *faultyNode) fault(verb, script string) {
	n.t.Helper()
	file := filepath.Join(n.Dir, verb)
	if script == "" {
		if err := os.Remove(file); err != nil {
			n.t.Fatal(err)
		}
		return
	}
	if err := os.WriteFile(file, []byte(script+"\n"), 0o644); err != nil {
		n.t.Fatal(err)
	}
}

// unchanged waits until the node is as it was.
func (n *faultyNode) unchanged(before []string) {
	n.t.Helper()
	n.Eventually("nothing is left", func() error {
		if after := nodeState(n.Node); !slices.Equal(before, after) {
			return fmt.Errorf("before:\n%s\nafter:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
		}
		return nil
	})
}

// says fails unless the error names the plug-in, the network and what is wrong.
func says(t *testing.T, err error, parts ...string) {
	t.Helper()
	for _, p := range append(parts, `network "yard"`) {
		if err == nil || !strings.Contains(status.Convert(err).Message(), p) {
			t.Errorf("error %v does not say %s", err, p)
		}
	}
}

// TestFaultyAdd: whatever a plug-in does at ADD, the error says who and where, nothing is left, and the same call again succeeds.
func TestFaultyAdd(t *testing.T) {
	n := startFaultyNode(t, faultyTimeout)
	before := nodeState(n.Node)
	for name, c := range map[string]struct{ script, says string }{
		"fails":                  {`echo '{"cniVersion":"1.0.0","code":99,"msg":"no port is free"}'; exit 1`, "plug-in faulty: ADD: no port is free"},
		"fails when all is done": {`$real >/dev/null; echo '{"code":99,"msg":"changed its mind"}'; exit 1`, "plug-in faulty: ADD: changed its mind"},
		"hangs":                  {`sleep 1000 & wait`, "plug-in faulty: ADD: killed: no end within " + faultyTimeout.String()},
		"hangs when all is done": {`$real; sleep 1000`, "plug-in faulty: ADD: killed: no end within " + faultyTimeout.String()},
		"prints garbage":         {`$real >/dev/null; echo "All done!"; exit 0`, `plug-in faulty: ADD: succeeded without a result: its output is "All done!`},
		"says nothing":           {`exit 0`, "plug-in faulty: ADD: succeeded without a result"},
		"crashes":                {`kill -SEGV $$`, "plug-in faulty: ADD: signal: segmentation fault"},
	} {
		t.Run(name, func(t *testing.T) {
			n.fault("ADD", c.script)
			pc := n.PodConfig()
			_, err := n.Runtime.RunPodSandbox(n.Ctx(), pc, "")
			says(t, err, c.says)
			n.unchanged(before)
			n.fault("ADD", "")
			id := n.RunPod(pc)
			if err := n.Runtime.RemovePodSandbox(n.Ctx(), id); err != nil {
				t.Error(err)
			}
			n.unchanged(before)
		})
	}
	t.Run("is missing", func(t *testing.T) {
		n.conf("absent")
		pc := n.PodConfig()
		n.Eventually("the configuration is read", func() error {
			_, err := n.Runtime.RunPodSandbox(n.Ctx(), pc, "")
			if err == nil || !strings.Contains(err.Error(), "absent") {
				return fmt.Errorf("error %v", err)
			}
			says(t, err, "plug-in absent is not in "+n.CNIBin)
			return nil
		})
		n.unchanged(before)
		n.conf("faulty")
		n.Eventually("a pod runs again", func() error {
			_, err := n.Runtime.RunPodSandbox(n.Ctx(), pc, "")
			return err
		})
	})
}

// TestFaultyDel: a stop fails as long as DEL does, with the pod's processes dead since the first one, and nothing is left in the
// end; a restart of the daemon in between changes nothing.
func TestFaultyDel(t *testing.T) {
	n := startFaultyNode(t, faultyTimeout)
	ref := imageInside(t, n.Node, "busybox:1")
	before := nodeState(n.Node)
	pc := n.PodConfig()
	pod := n.RunPod(pc)
	ctr := n.Run(pod, pc, n.ContainerConfig(ref, "sleep", "1000"))
	n.fault("DEL", `echo '{"code":99,"msg":"the controller is away"}'; exit 1`)
	for i := range 5 {
		err := n.Runtime.StopPodSandbox(n.Ctx(), pod)
		says(t, err, "stop pod "+pod, "plug-in faulty: DEL: the controller is away")
		if s := n.Status(ctr); s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != 137 {
			t.Fatalf("container after %d stops: %v", i+1, s)
		}
		ps, err := n.Runtime.PodSandboxStatus(n.Ctx(), pod, false)
		if err != nil || ps.Status.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
			t.Fatalf("pod after %d stops: %v, %v", i+1, ps, err)
		}
		if i == 2 {
			n.Kill()
			n.Start()
		}
	}
	err := n.Runtime.RemovePodSandbox(n.Ctx(), pod)
	says(t, err, "plug-in faulty: DEL: the controller is away")
	n.fault("DEL", "")
	for range 2 {
		if err := n.Runtime.StopPodSandbox(n.Ctx(), pod); err != nil {
			t.Error(err)
		}
	}
	if err := n.Runtime.RemovePodSandbox(n.Ctx(), pod); err != nil {
		t.Error(err)
	}
	n.unchanged(before)
}

// TestSlowAdd: a caller who gives up is told the stage, and the pod shows up as not ready. The call again joins the same operation,
// whichever of many callers makes it.
func TestSlowAdd(t *testing.T) {
	n := startFaultyNode(t, testenv.Slow(time.Minute))
	gate := filepath.Join(n.Dir, "gate")
	n.fault("ADD", `until [ -e $dir/gate ]; do sleep 0.02; done`)
	pc := n.PodConfig()
	ctx, cancel := context.WithTimeout(n.Ctx(), testenv.Slow(3*time.Second))
	defer cancel()
	_, err := n.Runtime.RunPodSandbox(ctx, pc, "")
	if s := status.Convert(err); s.Code() != codes.DeadlineExceeded || !strings.Contains(s.Message(), "still at it (CNI ADD faulty for ") {
		t.Errorf("the caller who gave up: %v", err)
	}
	list, err := n.Runtime.ListPodSandbox(n.Ctx(), nil)
	if err != nil || len(list) != 1 || list[0].State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Fatalf("a half-made pod is listed as %v, %v", list, err)
	}
	type result struct {
		id  string
		err error
	}
	results := make(chan result)
	const callers = 8
	for range callers {
		go func() {
			id, err := n.Runtime.RunPodSandbox(context.Background(), pc, "")
			results <- result{id, err}
		}()
	}
	other := n.PodConfig()
	other.Metadata = pc.Metadata
	n.Eventually("another configuration is refused", func() error {
		_, err := n.Runtime.RunPodSandbox(n.Ctx(), other, "")
		if status.Code(err) != codes.AlreadyExists || !strings.Contains(err.Error(), pc.Metadata.Name) || strings.Contains(err.Error(), "reserved") {
			return fmt.Errorf("error is %v", err)
		}
		return nil
	})
	if err := touch(gate); err != nil {
		t.Fatal(err)
	}
	for range callers {
		if r := <-results; r.err != nil || r.id != list[0].Id {
			t.Errorf("joined: %q, %v; want %s", r.id, r.err, list[0].Id)
		}
	}
}

// TestStopHalfMade: a pod that hangs in the making is stopped and removed without waiting for the plug-in.
func TestStopHalfMade(t *testing.T) {
	n := startFaultyNode(t, faultyTimeout)
	n.fault("ADD", `echo $$ > $dir/plugin.pid; $real > /dev/null; exec sleep 1000`)
	before := nodeState(n.Node)
	pc := n.PodConfig()
	ctx, cancel := context.WithCancel(n.Ctx())
	ended := make(chan error, 1)
	go func() {
		_, err := n.Runtime.RunPodSandbox(ctx, pc, "")
		ended <- err
	}()
	n.Eventually("the plug-in hangs", func() error { _, err := os.Stat(filepath.Join(n.Dir, "plugin.pid")); return err })
	cancel()
	<-ended
	var id string
	n.Eventually("the pod is listed", func() error {
		list, err := n.Runtime.ListPodSandbox(n.Ctx(), nil)
		if err != nil || len(list) != 1 {
			return fmt.Errorf("%d pods, %v", len(list), err)
		}
		id = list[0].Id
		return nil
	})
	for range 2 {
		if err := n.Runtime.StopPodSandbox(n.Ctx(), id); err != nil {
			t.Error(err)
		}
		if err := n.Runtime.RemovePodSandbox(n.Ctx(), id); err != nil {
			t.Error(err)
		}
	}
	n.fault("ADD", "")
	pod := n.RunPod(pc)
	if err := n.Runtime.RemovePodSandbox(n.Ctx(), pod); err != nil {
		t.Error(err)
	}
	n.unchanged(before)
}
