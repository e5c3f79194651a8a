// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/failpoint"
	"github.com/embedcri/embedcri/internal/testnode"
)

// TestTermIsBounded tells a daemon to end while a call hangs. It lets the call go on for a while, and no longer; what the call had
// begun is taken back by the next one, and the call can be repeated.
func TestTermIsBounded(t *testing.T) {
	order := filepath.Join(t.TempDir(), "order")
	n := testnode.Start(t, testnode.Options{NoNetwork: true, Env: []string{failpoint.Env + "=" + order}})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pc := n.HostPodConfig()
	pod := n.RunPod(pc)
	kept := n.Run(pod, pc, n.ContainerConfig(ref, "sh", "-c", waits))
	was := n.Quiet()

	a := &actor{t: t, n: n, order: order}
	a.arm(failpoint.TaskFollow, "before", failpoint.Pause)
	cfg := n.ContainerConfig(ref, "true")
	cfg.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	failed := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_, err := n.Runtime.CreateContainer(ctx, pod, cfg, pc)
		failed <- err
	}()
	n.Eventually("the call hangs", func() error { _, err := os.Stat(order + ".hit"); return err })
	begun := time.Now()
	n.Term()
	if took := time.Since(begun); took > 25*time.Second {
		t.Errorf("ended after %v", took)
	}
	if err := <-failed; err == nil {
		t.Error("a call that was cut off has succeeded")
	}
	n.Start()
	if s := n.Status(kept); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("another container: %v", s)
	}
	id, err := n.Runtime.CreateContainer(n.Ctx(), pod, cfg, pc)
	if err == nil {
		err = n.Runtime.StartContainer(n.Ctx(), id)
	}
	if err != nil {
		t.Fatal(err)
	}
	if s := n.WaitExited(id); s.ExitCode != 0 {
		t.Errorf("the call repeated: %v", s)
	}
	if err := n.Runtime.RemoveContainer(n.Ctx(), id); err != nil {
		t.Error(err)
	}
	if err := n.Settled(was, nil, 30*time.Second); err != nil {
		t.Errorf("left behind: %v", err)
	}
}
