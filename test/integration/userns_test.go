// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testnode"
)

// TestUserNamespace: root in the pod is nobody on the host, and files on a volume have the right owners on both sides.
func TestUserNamespace(t *testing.T) {
	n := testnode.Start(t, testnode.Options{})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	const base, size = 1_000_000, 65536
	userns := func() *runtimeapi.UserNamespace {
		m := []*runtimeapi.IDMapping{{HostId: base, ContainerId: 0, Length: size}}
		return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: m, Gids: m}
	}
	pc := n.PodConfig()
	pc.Linux.SecurityContext.NamespaceOptions.UsernsOptions = userns()
	pod := n.RunPod(pc)

	// A volume as the kubelet gives it: owned by ids of the container, mapped by the mount.
	volume := filepath.Join(n.Dir, "volume")
	secret := filepath.Join(n.Dir, "root-only")
	for dir, mode := range map[string]os.FileMode{volume: 0o755, secret: 0o700} {
		if err := os.Mkdir(dir, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(volume, "theirs"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(volume, "theirs"), 1000, 1000); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(secret, "key"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := n.ContainerConfig(ref, "sleep", "1000")
	cfg.Linux.SecurityContext.NamespaceOptions.UsernsOptions = userns()
	cfg.Linux.SecurityContext.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN"}}
	ids := userns().Uids
	cfg.Mounts = []*runtimeapi.Mount{
		{HostPath: volume, ContainerPath: "/volume", UidMappings: ids, GidMappings: ids},
		{HostPath: secret, ContainerPath: "/secret"},
	}
	ctr := n.Run(pod, pc, cfg)
	exec := func(cmd string) string {
		t.Helper()
		out, errOut, err := n.Runtime.ExecSync(n.Ctx(), ctr, []string{"sh", "-c", cmd}, 10*time.Second)
		if err != nil {
			return "error: " + string(errOut) + err.Error()
		}
		return strings.Join(strings.Fields(string(out)), " ")
	}
	if got := exec("cat /proc/self/uid_map; id -u"); got != "0 1000000 65536 0" {
		t.Errorf("uid_map and id: %q", got)
	}
	if got := exec("stat -c %u:%g /volume/theirs /etc/passwd /etc/hosts /dev/shm"); got != "1000:1000 0:0 0:0 0:0" {
		t.Errorf("owners inside: %q", got)
	}
	if got := exec("echo y > /volume/ours && chown 7:8 /volume/ours && stat -c %u:%g /volume/ours"); got != "7:8" {
		t.Errorf("owner of a new file inside: %q", got)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(volume, "ours"), &st); err != nil || st.Uid != 7 || st.Gid != 8 {
		t.Errorf("owner of it on the host: %d:%d, %v", st.Uid, st.Gid, err)
	}
	if got := exec("cat /secret/key"); !strings.Contains(got, "Permission denied") {
		t.Errorf("root of the pod reads a file of the host's root: %q", got)
	}
	// The network namespace belongs to the pod's user namespace, so that a capability of the pod's root counts there.
	if got := exec("ip link set lo down && ip link set lo up && echo ok"); got != "ok" {
		t.Errorf("lo with CAP_NET_ADMIN: %q", got)
	}
}

// TestUserNamespaceOnTheHostsNetwork: such a pod sees the host's network and has no power over it.
func TestUserNamespaceOnTheHostsNetwork(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	m := []*runtimeapi.IDMapping{{HostId: 2_000_000, ContainerId: 0, Length: 65536}}
	userns := &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: m, Gids: m}
	pc := n.HostPodConfig()
	pc.Linux.SecurityContext.NamespaceOptions.UsernsOptions = userns
	pod := n.RunPod(pc)
	cfg := n.ContainerConfig(ref, "sleep", "1000")
	cfg.Linux.SecurityContext.NamespaceOptions.UsernsOptions = userns
	cfg.Linux.SecurityContext.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN"}}
	ctr := n.Run(pod, pc, cfg)
	host, own := namespacesOf(t, n.Pid()), namespacesOf(t, pidOf(t, n, ctr))
	for kind, shared := range map[string]bool{"net": true, "uts": true, "user": false, "ipc": false, "pid": false} {
		if (host[kind] == own[kind]) != shared {
			t.Errorf("%s namespace: %s, the host's is %s", kind, own[kind], host[kind])
		}
	}
	for cmd, want := range map[string]string{
		"awk '{ print $2 }' /proc/self/uid_map":                       "2000000",
		"cat /sys/class/net/lo/address":                               "00:00:00:00:00:00",
		"ip link set lo mtu 1500 2> /dev/null || echo refused":        "refused",
		"echo 1 2> /dev/null > /sys/class/net/lo/mtu || echo refused": "refused",
	} {
		if got := run(n, ctr, cmd); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", cmd, got, want)
		}
	}
}
