// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"cmp"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/embedcri/embedcri/internal/testenv"
	"github.com/embedcri/embedcri/internal/testnode"
	"github.com/embedcri/embedcri/internal/testregistry"
)

// nodeName is what the kubelet calls its node; static pods get it as a suffix.
const nodeName = "embedcri-test"

// kubelet is a running kubelet and the node whose daemon it talks to.
type kubelet struct {
	*testing.T
	program  string
	node     *testnode.Node
	registry *testregistry.Registry
	dir      string // all of the kubelet's, a mount of its own
	port     int
	cmd      *exec.Cmd
	exited   chan struct{}
	client   *http.Client
}

// binary returns the kubelet, $EMBEDCRI_KUBELET or the one that make kubelet-test builds.
func binary(t *testing.T) string {
	p := cmp.Or(os.Getenv("EMBEDCRI_KUBELET"), filepath.Join(testenv.Checkout(), "bin", "tools", "kubelet"))
	if err := unix.Access(p, unix.X_OK); err != nil {
		if slices.Contains(strings.Split(os.Getenv("EMBEDCRI_REQUIRE"), ","), "kubelet") {
			t.Fatalf("EMBEDCRI_REQUIRE lists kubelet, but %s: %v", p, err)
		}
		t.Skipf("%s: %v (make kubelet-test builds it)", p, err)
	}
	return p
}

// start runs a daemon and a kubelet with the given feature gates on top of it.
func start(t *testing.T, gates map[string]bool) *kubelet {
	program := binary(t)
	k := &kubelet{T: t, program: program, node: testnode.Start(t, testnode.Options{}), registry: testregistry.Start(t, testregistry.Options{})}
	k.dir = filepath.Join(k.node.Dir, "kubelet")
	k.client = &http.Client{Timeout: testenv.Slow(30 * time.Second), Transport: &http.Transport{TLSClientConfig: tlsConfig}}
	for _, d := range []string{"root", "pods", "manifests", "plugins"} {
		if err := os.MkdirAll(filepath.Join(k.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// What the kubelet mounts for volumes has to be seen by the daemon, although the kubelet has a mount namespace of its own.
	for _, step := range []func() error{
		func() error { return unix.Mount(k.dir, k.dir, "", unix.MS_BIND, "") },
		func() error { return unix.Mount("", k.dir, "", unix.MS_PRIVATE, "") },
		func() error { return unix.Mount("", k.dir, "", unix.MS_SHARED, "") },
	} {
		if err := step(); err != nil {
			t.Fatalf("make %s a shared mount: %v", k.dir, err)
		}
	}
	t.Cleanup(k.remove)
	makeCgroups(t, k.node.Parent)
	k.port = freePort(t)
	b, err := json.MarshalIndent(k.config(gates), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(k.dir, "config.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	k.run()
	return k
}

var tlsConfig = &tls.Config{InsecureSkipVerify: true} // the kubelet makes its certificate itself

// config is a KubeletConfiguration (kubelet.config.k8s.io/v1beta1).
func (k *kubelet) config(gates map[string]bool) map[string]any {
	return map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"address": "127.0.0.1", "port": k.port, "healthzPort": 0, "readOnlyPort": 0,
		"authentication": map[string]any{"anonymous": map[string]any{"enabled": true}, "webhook": map[string]any{"enabled": false}},
		"authorization":  map[string]any{"mode": "AlwaysAllow"},
		"staticPodPath":  filepath.Join(k.dir, "manifests"), "fileCheckFrequency": "1s",
		"podLogsDir": filepath.Join(k.dir, "pods"), "volumePluginDir": filepath.Join(k.dir, "plugins"),
		"containerRuntimeEndpoint": "unix://" + k.node.Socket, "imageServiceEndpoint": "unix://" + k.node.Socket,
		"enableControllerAttachDetach": false,
		// Only what is below the node's cgroup is the kubelet's.
		"cgroupRoot": k.node.Parent, "cgroupsPerQOS": true, "enforceNodeAllocatable": []string{"pods"}, "failCgroupV1": false,
		"failSwapOn": false, "oomScoreAdj": 0, "maxOpenFiles": 20000, "makeIPTablesUtilChains": false,
		"evictionHard":                map[string]string{"memory.available": "10Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
		"imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
		"volumeStatsAggPeriod": "5s",
		"featureGates":         gates,
		// The longest time between restarts, so that a crash loop can be watched for a few rounds.
		"crashLoopBackOff": map[string]any{"maxContainerRestartPeriod": "2s"},
		"logging":          map[string]any{"verbosity": 2},
	}
}

// wrapper starts the kubelet in a mount namespace whose only link to this machine's is the shared mount $1: the kernel settings that
// it changes at its start (pkg/kubelet/cm, setupKernelTunables), /var/lib and /var/log, whose paths are compiled in, are its own.
const wrapper = `
while read -r _ _ _ _ at _; do
	case $at in "$1") ;; *) mount --make-slave "$at" 2>/dev/null || : ;; esac
done </proc/self/mountinfo
mkdir -p "$1/sysctl"
for s in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
	f=$1/sysctl/${s##*/}
	cat /proc/sys/$s >"$f"
	mount --bind "$f" /proc/sys/$s
done
mount -t tmpfs lib /var/lib
mount -t tmpfs log /var/log
shift
exec "$@"
`

func (k *kubelet) run() {
	log, err := os.Create(filepath.Join(k.dir, "kubelet.log"))
	if err != nil {
		k.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("unshare", "--mount", "--propagation", "unchanged", "sh", "-ec", wrapper, "sh", k.dir,
		k.program, "--config", filepath.Join(k.dir, "config.json"), "--root-dir", filepath.Join(k.dir, "root"),
		"--cert-dir", filepath.Join(k.dir, "pki"), "--hostname-override", nodeName)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		k.Fatal(err)
	}
	k.cmd, k.exited = cmd, make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(k.exited)
	}()
	k.eventually("the kubelet serves", time.Minute, func() error {
		select {
		case <-k.exited:
			k.Fatalf("the kubelet has ended:\n%s", k.log())
		default:
		}
		_, err := k.get("/healthz")
		return err
	})
}

// remove ends the kubelet and what it has made: pods, mounts, cgroups.
func (k *kubelet) remove() {
	if k.Failed() {
		k.Logf("the kubelet's log:\n%s", k.log())
	}
	if k.cmd != nil {
		_ = k.cmd.Process.Signal(unix.SIGTERM)
		select {
		case <-k.exited:
		case <-time.After(testenv.Slow(20 * time.Second)):
			_ = k.cmd.Process.Kill()
			<-k.exited
		}
	}
	k.node.RemovePods()
	for _, m := range mounts(k.dir) {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil {
			k.Errorf("unmount %s: %v", m, err)
		}
	}
	removeCgroups(k.T, k.node.Parent)
}

func (k *kubelet) log() string {
	b, _ := os.ReadFile(filepath.Join(k.dir, "kubelet.log"))
	return string(b[max(0, len(b)-20000):])
}

// get asks the kubelet's port.
func (k *kubelet) get(path string) (string, error) {
	r, err := k.client.Get(fmt.Sprintf("https://127.0.0.1:%d%s", k.port, path))
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", path, r.Status, b)
	}
	return string(b), err
}

// mustGet is get that fails the test.
func (k *kubelet) mustGet(path string) string {
	k.Helper()
	s, err := k.get(path)
	if err != nil {
		k.Fatal(err)
	}
	return s
}

// add puts a static pod where the kubelet looks for them.
func (k *kubelet) add(p *corev1.Pod) {
	k.Helper()
	b, err := json.Marshal(p)
	if err != nil {
		k.Fatal(err)
	}
	// The kubelet skips names that begin with a dot, and so never sees half a file.
	tmp := filepath.Join(k.dir, "manifests", "."+p.Name)
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		k.Fatal(err)
	}
	if err := os.Rename(tmp, k.manifest(p.Name)); err != nil {
		k.Fatal(err)
	}
}

func (k *kubelet) manifest(pod string) string { return filepath.Join(k.dir, "manifests", pod+".json") }

// pod returns a pod as the kubelet sees it, nil if it does not.
func (k *kubelet) pod(name string) *corev1.Pod {
	k.Helper()
	var list corev1.PodList
	if err := json.Unmarshal([]byte(k.mustGet("/pods")), &list); err != nil {
		k.Fatal(err)
	}
	for i, p := range list.Items {
		if p.Name == name+"-"+nodeName {
			return &list.Items[i]
		}
	}
	return nil
}

// waitFor polls a pod until f is content with it.
func (k *kubelet) waitFor(name, what string, f func(*corev1.Pod) bool) *corev1.Pod {
	k.Helper()
	var p *corev1.Pod
	k.eventually(fmt.Sprintf("pod %s: %s", name, what), 2*time.Minute, func() error {
		if p = k.pod(name); p == nil {
			return fmt.Errorf("the kubelet does not know it")
		}
		if !f(p) {
			b, _ := json.Marshal(p.Status)
			return fmt.Errorf("status %s", b)
		}
		return nil
	})
	return p
}

func (k *kubelet) eventually(what string, limit time.Duration, f func() error) {
	k.Helper()
	for deadline := time.Now().Add(testenv.Slow(limit)); ; time.Sleep(50 * time.Millisecond) { // poll to the deadline
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			k.Fatalf("%s: %v", what, err)
		}
	}
}

func freePort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
