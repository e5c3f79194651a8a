// SPDX-License-Identifier: Apache-2.0

package testnode

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testenv"
)

// Options change what a node is like.
type Options struct {
	Config        string   // TOML that is appended to the node's own; it must not repeat a table
	HandlerConfig string   // TOML that is appended to the table of each runtime handler
	Network       string   // TOML for its table [network]
	Env           []string // added to the daemon's environment
	Crun          bool     // a second handler, crun, beside runc
	NoNetwork     bool     // CNI directory without plug-ins, no default network: only host-network pods
	OwnNet        bool     // run the daemon in a network namespace of its own; see Node.NetNS
	Verbosity     int      // of the daemon's log
	KeepFailed    bool     // leave everything for inspection if the test fails
	Root          string   // where images and records are, instead of a directory of the node's own
	Runc          string   // the OCI runtime, instead of testenv's
}

// Node is a machine with embedcri as its runtime, as far as one daemon is concerned.
type Node struct {
	T       testing.TB
	Name    string // unique on this machine
	Dir     string // of everything on disk
	State   string
	Socket  string
	BPF     string
	Parent  string // cgroup parent
	Bridge  string
	Subnet  string // IPv4
	Subnet6 string
	CNIConf string // directory of network configurations, empty at first: the default network
	CNIBin  string // directory of the test's own plug-ins, searched before the real ones
	LogFile string
	// NetNS, with Options.OwnNet, is where the daemon and its plug-ins have their network: bridges, packet filter and ip_forward are
	// not this machine's, so a test can look at all of them. Of this machine's network only unix sockets reach there.
	NetNS string

	Runtime internalapi.RuntimeService
	Images  internalapi.ImageManagerService

	o      Options
	config string
	nets   []string // network namespaces made for the node, by name
	daemon *exec.Cmd
	exited chan struct{} // closed when the daemon's process has been reaped
	bin    string        // where the daemon's programs are; empty: as built by make
	idle   load          // of the first daemon, before it had anything to do
}

var counter atomic.Int32

// New prepares a node; Start runs its daemon. When the test ends, everything is removed and looked for.
func New(t testing.TB, o Options) *Node {
	t.Helper()
	testenv.Require(t, testenv.Root, testenv.BPF, testenv.RunC)
	if !o.NoNetwork {
		testenv.Require(t, testenv.CNI)
	}
	if o.Crun {
		testenv.Require(t, testenv.Crun)
	}
	// The pid keeps apart what runs side by side, the counter what runs within one process.
	n := int(counter.Add(1))
	name := fmt.Sprintf("ect%d-%d", os.Getpid(), n)
	slot := takeSlot(t, n)
	t.Cleanup(func() { giveSlot(t, slot) }) // after all else
	node := &Node{
		T: t, Name: name, o: o,
		Dir:    filepath.Join("/var/tmp", "embedcri-"+name),
		State:  filepath.Join("/run", "embedcri-"+name),
		BPF:    filepath.Join("/sys/fs/bpf", "embedcri-"+name),
		Parent: parentOf(name),
		Bridge: fmt.Sprintf("ec%dx%d", os.Getpid(), n),
		Subnet: fmt.Sprintf("10.200.%d.0/24", slot), Subnet6: fmt.Sprintf("fd00:200:%x::/64", slot),
	}
	node.Socket = filepath.Join(node.State, "cri.sock")
	node.CNIConf = filepath.Join(node.Dir, "cni-conf")
	node.CNIBin = filepath.Join(node.Dir, "cni-bin")
	node.LogFile = filepath.Join(node.Dir, "daemon.log")
	for _, d := range []string{node.Dir, node.CNIConf, node.CNIBin, node.State, node.tempDir()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	node.config = filepath.Join(node.Dir, "config.toml")
	if err := os.WriteFile(node.config, []byte(node.toml(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	if o.OwnNet {
		node.ownNet()
	}
	t.Cleanup(node.remove)
	return node
}

// Start prepares a node and runs its daemon.
func Start(t testing.TB, o Options) *Node {
	t.Helper()
	n := New(t, o)
	n.Start()
	return n
}

func (n *Node) toml(t testing.TB) string {
	bins, network := "/nonexistent", "false"
	if !n.o.NoNetwork {
		bins, network = testenv.CNIBin(t), "true"
	}
	runc, root := n.o.Runc, n.o.Root
	if runc == "" {
		runc = testenv.RuncPath(t)
	}
	if root == "" {
		root = filepath.Join(n.Dir, "root")
	}
	crun := ""
	if n.o.Crun {
		crun = fmt.Sprintf("[runtime.handlers.crun]\npath = %q\n%s", testenv.CrunPath(t), n.o.HandlerConfig)
	}
	return fmt.Sprintf(`socket = %q
root = %q
state = %q
bpf = %q
[runtime.handlers.runc]
path = %q
%s%s[cgroup]
driver = %q
parent = %q
[network]
conf_dir = %q
bin_dirs = [%q, %q]
%s
[network.default_network]
enabled = %s
bridge = %q
subnets = [%q, %q]
%s
`, n.Socket, root, n.State, n.BPF, runc, n.o.HandlerConfig, crun, testenv.CgroupDriver(), n.Parent, n.CNIConf, n.CNIBin, bins,
		n.o.Network, network, n.Bridge, n.Subnet,
		n.Subnet6, n.o.Config)
}

// remove takes everything down and looks for what is left.
func (n *Node) remove() {
	t := n.T
	if t.Failed() {
		t.Logf("log of the daemon of %s:\n%s", n.Name, n.Log())
		if n.o.KeepFailed {
			return
		}
	}
	if n.daemon != nil {
		select {
		case <-n.exited: // by itself: somebody has to take down what it holds
			n.daemon = nil
		default:
		}
	}
	if n.daemon == nil {
		n.Start()
	}
	if n.Runtime == nil { // its daemon has never served, which the test has been told
		return
	}
	n.RemovePods()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := n.idleAgain(ctx); err != nil && !t.Failed() {
		t.Errorf("the daemon has let go of everything, but %v", err)
	}
	n.Term()
	if log, err := os.ReadFile(n.LogFile); err == nil && strings.Contains(string(log), "WARNING: DATA RACE") {
		t.Errorf("the race detector has found something in the daemon:\n%s", log[strings.Index(string(log), "WARNING: DATA RACE"):])
	}
	var out []byte
	if err := n.InNet(func() (err error) { out, err = n.Command("cleanup").CombinedOutput(); return err }); err != nil {
		t.Errorf("cleanup: %v\n%s", err, out)
	}
	for _, left := range n.leftovers() {
		t.Errorf("left behind: %s", left)
	}
	n.removeNets()
	for _, dir := range []string{n.State, n.Dir} {
		if err := removeTree(dir); err != nil {
			t.Error(err)
		}
	}
	if n.Runtime != nil {
		_ = n.Runtime.Close(context.Background())
		_ = n.Images.Close(context.Background())
	}
}

// RemovePods removes all pods.
func (n *Node) RemovePods() {
	n.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testenv.Slow(2*time.Minute))
	defer cancel()
	pods, err := n.Runtime.ListPodSandbox(ctx, nil)
	if err != nil {
		n.T.Errorf("list pods to remove: %v", err)
	}
	for _, p := range pods {
		n.removePod(ctx, p)
	}
}

func (n *Node) removePod(ctx context.Context, p *runtimeapi.PodSandbox) {
	if err := n.Runtime.StopPodSandbox(ctx, p.Id); err != nil {
		n.T.Errorf("stop pod %s: %v", p.Id, err)
	}
	if err := n.Runtime.RemovePodSandbox(ctx, p.Id); err != nil {
		n.T.Errorf("remove pod %s: %v", p.Id, err)
	}
}

// removeTree removes dir unless something is still mounted below it.
func removeTree(dir string) error {
	if m := mountsBelow(dir); len(m) > 0 {
		return fmt.Errorf("not removed, as it has mounts: %s", strings.Join(m, " "))
	}
	return os.RemoveAll(dir)
}

// In returns the node as a subtest sees it, whose failures are the subtest's own. It is for calls of the node's services: the
// daemon itself is started and ended by the node that it came from.
func (n *Node) In(t testing.TB) *Node {
	c := *n
	c.T = t
	return &c
}
