// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testnode"
	"github.com/embedcri/embedcri/internal/testregistry"
)

// TestPodChurn makes and removes pods of every kind, several at a time, with callers that give up at random moments and, like the
// kubelet, come again. Then the node has to be as it was: the daemon runs in a network namespace of its own, so that every
// interface and every rule of the packet filter can be counted. EMBEDCRI_CHURN is the number of pods (make churn: 500).
func TestPodChurn(t *testing.T) {
	pods, workers := 60, 8
	if s := os.Getenv("EMBEDCRI_CHURN"); s != "" {
		var err error
		if pods, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	c := startChurn(t)
	open := openFiles(c.n)
	c.lives(pods, workers)()
	if c.cancelled.Load() < int64(pods)/10 { // about two fifths on an idle machine, more on a busy one
		t.Errorf("only %d calls were cancelled", c.cancelled.Load())
	}
	c.unchanged()
	if tables := c.n.Sh(c.n.NetNS, "nft list tables"); strings.Contains(tables, "nat") {
		t.Errorf("somebody has run iptables: %s", tables)
	}
	c.n.Eventually("no file is left open", func() error {
		for kind, count := range openFiles(c.n) {
			if count > open[kind] {
				return fmt.Errorf("%d open files of kind %s, %d before", count, kind, open[kind])
			}
		}
		return nil
	})
}

// TestPodChurnOverRestarts does the same while the daemon is killed again and again. Whatever it was at, the next one takes back or
// goes on with.
func TestPodChurnOverRestarts(t *testing.T) {
	c := startChurn(t)
	c.restarts = true
	wait := c.lives(32, 8)
	for range 5 {
		time.Sleep(rand.N(time.Second)) // a moment of no meaning
		c.n.Kill()
		c.n.Start()
	}
	wait()
	c.unchanged()
}

// churn counts what its workers do.
type churn struct {
	t                          *testing.T
	n                          *testnode.Node
	image                      string
	before                     []string // the node's state
	restarts                   bool     // the daemon may go at any time: calls that have lost it are made again
	calls, cancelled, halfMade atomic.Int64
}

// churnKinds is how many kinds of pods there are.
const churnKinds = 6

func startChurn(t *testing.T) *churn {
	t.Helper()
	n := testnode.Start(t, testnode.Options{OwnNet: true})
	c := &churn{t: t, n: n, image: imageInside(t, n, "busybox:1")}
	// What the first pods of a node make for good (the bridge, empty chains) is there before the count.
	for i := range churnKinds {
		c.life(i, false)
	}
	c.before = nodeState(n)
	return c
}

// lives begins the lives of pods and returns what waits for them to end.
func (c *churn) lives(pods, workers int) (wait func()) {
	start := time.Now()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := int(next.Add(1)); i <= pods; i = int(next.Add(1)) {
				c.life(i, true)
			}
		})
	}
	return func() {
		wg.Wait()
		c.t.Logf("%d pods in %v: %d calls, %d of them cancelled; %d pods were stopped half-made", pods, time.Since(start).Round(time.Millisecond),
			c.calls.Load(), c.cancelled.Load(), c.halfMade.Load())
	}
}

// unchanged waits until the node is as before. The kernel takes down a namespace, and the veth in it, on its own time.
func (c *churn) unchanged() {
	c.t.Helper()
	c.n.Eventually("the node is as before", func() error {
		if after := nodeState(c.n); !slices.Equal(c.before, after) {
			return fmt.Errorf("before:\n%s\nafter:\n%s", strings.Join(c.before, "\n"), strings.Join(after, "\n"))
		}
		return nil
	})
}

// config is the configuration of pod i: its kind goes round.
func (c *churn) config(i int) *runtimeapi.PodSandboxConfig {
	pc := c.n.PodConfig()
	o := pc.Linux.SecurityContext.NamespaceOptions
	switch i % churnKinds {
	case 1:
		pc.PortMappings = []*runtimeapi.PortMapping{
			{HostPort: int32(20000 + i), ContainerPort: 80}, {HostPort: int32(20000 + i), ContainerPort: 53, Protocol: runtimeapi.Protocol_UDP},
		}
	case 2:
		o.Network = runtimeapi.NamespaceMode_NODE
	case 3:
		o.Pid = runtimeapi.NamespaceMode_POD // it has an init of its own
	case 4:
		m := []*runtimeapi.IDMapping{{HostId: uint32(1_000_000 + i*65536), Length: 65536}}
		o.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: m, Gids: m}
	case 5:
		pc.Linux.Sysctls = map[string]string{"net.core.somaxconn": "1000", "kernel.shm_rmid_forced": "1"}
		pc.Annotations = map[string]string{"kubernetes.io/egress-bandwidth": "100M"}
		o.Ipc = runtimeapi.NamespaceMode_POD
	}
	return pc
}

// life is one pod's, as a kubelet with a short temper lives it.
func (c *churn) life(i int, hurried bool) {
	pc := c.config(i)
	if hurried && rand.IntN(2) == 0 {
		_, err := c.run(pc, time.Duration(rand.IntN(300))*time.Millisecond)
		if err != nil && rand.IntN(2) == 0 {
			// It is done with the pod, and stops what it finds, be it half-made.
			c.stopListed(pc)
		}
	}
	// Whatever has become of the pod: either it is there, or being made, and the same call gets it; or it is gone, and the call
	// makes it again.
	id, err := c.run(pc, 0)
	for status.Code(err) == codes.Aborted { // the stop that ended its making is heard of only now
		id, err = c.run(pc, 0)
	}
	if err != nil {
		c.t.Errorf("run %s: %v", pc.Metadata.Name, err)
		return
	}
	if i%5 == 3 { // 5 has no factor in common with churnKinds: each kind has its turn
		c.container(id, pc)
	}
	if hurried && rand.IntN(2) == 0 {
		_ = c.call(time.Duration(rand.IntN(100))*time.Millisecond, func(ctx context.Context) error { return c.n.Runtime.StopPodSandbox(ctx, id) })
	}
	if hurried && rand.IntN(2) == 0 {
		_ = c.call(time.Duration(rand.IntN(100))*time.Millisecond, func(ctx context.Context) error { return c.n.Runtime.RemovePodSandbox(ctx, id) })
	}
	c.remove(id)
}

// container runs a container in the pod.
func (c *churn) container(pod string, pc *runtimeapi.PodSandboxConfig) {
	cfg := c.n.ContainerConfig(c.image, "sleep", "1000")
	cfg.Linux.SecurityContext.NamespaceOptions = pc.Linux.SecurityContext.NamespaceOptions
	id, err := c.n.Runtime.CreateContainer(context.Background(), pod, cfg, pc)
	if err == nil {
		err = c.n.Runtime.StartContainer(context.Background(), id)
	}
	if err != nil && !c.restarts {
		c.t.Errorf("container in %s: %v", pc.Metadata.Name, err)
	}
}

// stopListed stops and removes the pod if it is in the list.
func (c *churn) stopListed(pc *runtimeapi.PodSandboxConfig) {
	var list []*runtimeapi.PodSandbox
	err := c.call(0, func(ctx context.Context) (err error) {
		list, err = c.n.Runtime.ListPodSandbox(ctx, nil)
		return err
	})
	if err != nil {
		c.t.Error(err)
	}
	for _, p := range list {
		if p.Metadata.Name != pc.Metadata.Name {
			continue
		}
		if p.State == runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
			c.halfMade.Add(1)
		}
		c.remove(p.Id)
	}
}

func (c *churn) run(pc *runtimeapi.PodSandboxConfig, limit time.Duration) (id string, err error) {
	err = c.call(limit, func(ctx context.Context) error {
		id, err = c.n.Runtime.RunPodSandbox(ctx, pc, "")
		return err
	})
	return id, err
}

func (c *churn) remove(id string) {
	for _, f := range []func(context.Context, string) error{c.n.Runtime.StopPodSandbox, c.n.Runtime.RemovePodSandbox} {
		if err := c.call(0, func(ctx context.Context) error { return f(ctx, id) }); err != nil {
			c.t.Errorf("end pod %s: %v", id, err)
		}
	}
}

// call gives up after limit, if there is one.
func (c *churn) call(limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if limit > 0 {
		var hurry context.CancelFunc
		ctx, hurry = context.WithTimeout(ctx, limit)
		defer hurry()
	}
	c.calls.Add(1)
	err := f(ctx)
	for c.restarts && limit == 0 && status.Code(err) == codes.Unavailable && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond) // poll, as the kubelet does, until there is a daemon
		err = f(ctx)
	}
	if limit > 0 && ctx.Err() != nil {
		c.cancelled.Add(1)
	}
	return err
}

// imageInside pulls an image from a registry in the node's own network.
func imageInside(t *testing.T, n *testnode.Node, name string) string {
	t.Helper()
	var r *testregistry.Registry
	if err := n.InNet(func() (err error) { r, err = testregistry.Serve(testregistry.Options{}); return err }); err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ref := r.Ref(t, name)
	n.Pull(ref)
	return ref
}

// nodeState lists all that a pod may leave on a node: interfaces, rules, addresses, mounts, cgroups, records, processes.
func nodeState(n *testnode.Node) []string {
	state := n.NetworkState()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		n.T.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], n.State) || strings.HasPrefix(f[4], n.Dir) {
			state = append(state, "mount "+f[4])
		}
	}
	for _, pattern := range []string{
		n.Dir + "/root/cni/networks/*/*", n.Dir + "/root/cni/results/*", n.Dir + "/root/state/*/*", // host-local, libcni, our records
		n.State + "/ns/*", n.State + "/pod/*", n.State + "/task/*", n.State + "/runtime/*/*",
		"/sys/fs/cgroup" + n.Parent + "/*/", "/sys/fs/cgroup/*" + n.Parent + "/*/",
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			n.T.Fatal(err)
		}
		for _, f := range found {
			if !strings.Contains(f, "/last_reserved_ip.") {
				state = append(state, f)
			}
		}
	}
	for _, p := range procsIn(n.T, n) {
		state = append(state, "process "+p)
	}
	slices.Sort(state)
	return state
}

// openFiles counts the daemon's descriptors by kind. Sockets come and go with the clients, and streams have a stock of pipes; any
// other file, or a namespace, that stays open is a leak.
func openFiles(n *testnode.Node) map[string]int {
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", n.Pid()))
	if err != nil {
		n.T.Fatal(err)
	}
	kinds := map[string]int{}
	for _, f := range fds {
		if target, err := os.Readlink(f); err == nil && !strings.HasPrefix(target, "socket:") && !strings.HasPrefix(target, n.State+"/io/") {
			kind, _, _ := strings.Cut(target, ":") // "net:[4026532008]"
			kinds[kind]++
		}
	}
	return kinds
}
