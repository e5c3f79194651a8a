// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testnode"
)

const (
	modePod  = runtimeapi.NamespaceMode_POD
	modeCtr  = runtimeapi.NamespaceMode_CONTAINER
	modeNode = runtimeapi.NamespaceMode_NODE
)

// TestNamespaceModes runs pairs of containers under each mode of each namespace, and compares what the kernel says they are in with
// each other and with the host.
func TestNamespaceModes(t *testing.T) {
	n := testnode.Start(t, testnode.Options{})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	host := namespacesOf(t, n.Pid())
	for _, c := range []struct{ network, ipc, pid runtimeapi.NamespaceMode }{
		{modePod, modePod, modePod},
		{modePod, modePod, modeCtr},
		{modePod, modeNode, modeNode},
		{modeCtr, modeCtr, modeCtr},
		{modeNode, modePod, modeCtr},
		{modeNode, modeNode, modePod},
		{modeNode, modeCtr, modeNode},
	} {
		t.Run(fmt.Sprintf("network %v, ipc %v, pid %v", c.network, c.ipc, c.pid), func(t *testing.T) {
			pc := n.PodConfig()
			pc.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Network: c.network, Ipc: c.ipc, Pid: c.pid}
			pod := n.RunPod(pc)
			var pair [2]map[string]string
			for i := range pair {
				cfg := n.ContainerConfig(ref, "sleep", "1000")
				cfg.Linux.SecurityContext.NamespaceOptions = pc.Linux.SecurityContext.NamespaceOptions
				pair[i] = namespacesOf(t, pidOf(t, n, n.Run(pod, pc, cfg)))
			}
			uts := modePod // there is no mode for it: the host's name goes with the host's network
			if c.network == modeNode {
				uts = modeNode
			}
			for kind, mode := range map[string]runtimeapi.NamespaceMode{
				"net": c.network, "ipc": c.ipc, "pid": c.pid, "uts": uts, "mnt": modeCtr, "user": modeNode,
			} {
				a, b := pair[0][kind], pair[1][kind]
				var got runtimeapi.NamespaceMode
				switch {
				case a == host[kind] && b == host[kind]:
					got = modeNode
				case a == b:
					got = modePod
				case a != host[kind] && b != host[kind]:
					got = modeCtr
				}
				if got != mode {
					t.Errorf("%s namespace: %s and %s, the host's is %s: want %v", kind, a, b, host[kind], mode)
				}
			}
			if err := n.Runtime.RemovePodSandbox(n.Ctx(), pod); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestNodeModesNeedThePod: no container gets a namespace of the host that its pod does not have.
func TestNodeModesNeedThePod(t *testing.T) {
	n := testnode.Start(t, testnode.Options{})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pc := n.PodConfig()
	pod := n.RunPod(pc)
	for field, o := range map[string]*runtimeapi.NamespaceOption{
		"network": {Network: modeNode, Pid: modeCtr}, "ipc": {Ipc: modeNode, Pid: modeCtr}, "pid": {Pid: modeNode},
	} {
		cfg := n.ContainerConfig(ref, "true")
		cfg.Linux.SecurityContext.NamespaceOptions = o
		_, err := n.Runtime.CreateContainer(n.Ctx(), pod, cfg, pc)
		if err == nil || !strings.Contains(err.Error(), "namespace_options."+field) {
			t.Errorf("%s of the host in a pod without it: %v", field, err)
		}
	}
}

// namespacesOf returns what /proc says about a process: "net" → "net:[4026531840]".
func namespacesOf(t testing.TB, pid int) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, kind := range []string{"net", "ipc", "pid", "uts", "mnt", "user"} {
		target, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		if err != nil {
			t.Fatal(err)
		}
		out[kind] = target
	}
	return out
}

// pidOf returns the pid of a container's init, on the host.
func pidOf(t testing.TB, n *testnode.Node, id string) int {
	t.Helper()
	r, err := n.Runtime.ContainerStatus(n.Ctx(), id, true)
	if err != nil {
		t.Fatal(err)
	}
	return infoPid(t, r.Info)
}
