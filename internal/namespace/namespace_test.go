// SPDX-License-Identifier: Apache-2.0

package namespace_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/namespace"
	"github.com/embedcri/embedcri/internal/testenv"
)

// nsDir is a prepared directory for pins; whatever a test leaves in it fails the test.
func nsDir(t testing.TB) string {
	t.Helper()
	testenv.Require(t, "root")
	dir := filepath.Join(t.TempDir(), "ns")
	if err := namespace.Prepare(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := namespace.Unprepare(dir); err != nil {
			t.Errorf("pins are left: %v", err)
		}
	})
	return dir
}

func create(t testing.TB, s namespace.Spec) (string, namespace.Paths) {
	t.Helper()
	dir := filepath.Join(nsDir(t), "pod")
	p, err := namespace.Create(dir, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := namespace.Delete(dir); err != nil {
			t.Error(err)
		}
	})
	return dir, p
}

// inside runs a program in the namespaces of p and returns what it prints.
func inside(t testing.TB, p namespace.Paths, argv ...string) string {
	t.Helper()
	var args []string
	for flag, path := range map[string]string{"--user=": p.User, "--net=": p.Net, "--ipc=": p.IPC, "--uts=": p.UTS} {
		if path != "" {
			args = append(args, flag+path)
		}
	}
	out, err := exec.Command("nsenter", append(append(args, "--"), argv...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", argv, err, out)
	}
	return strings.TrimSpace(string(out))
}

func identity(t testing.TB, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

func TestCreateConfiguresAndPins(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	dir, p := create(t, namespace.Spec{
		Net: true, IPC: true, UTS: true,
		Hostname:          "web-0",
		UnprivilegedPorts: true,
		Ping:              true,
		Sysctls: map[string]string{
			"net.ipv4.ip_local_port_range": "10000 20000",
			"net/ipv4/tcp_syncookies":      "0",
			"kernel.shmmax":                "123456",
			"kernel.msgmax":                "4321",
			"kernel.sem":                   "100 200 30 40",
			"fs.mqueue.msg_max":            "7",
		},
	})
	for _, path := range []string{p.Net, p.IPC, p.UTS} {
		name := filepath.Base(path)
		if identity(t, path) == identity(t, "/proc/self/ns/"+name) {
			t.Errorf("the %s namespace is the host's", name)
		}
	}
	if p.User != "" {
		t.Errorf("user namespace %q, want none", p.User)
	}
	if got := namespace.Load(dir); got != p {
		t.Errorf("Load = %+v, want %+v", got, p)
	}
	for want, argv := range map[string]string{
		"web-0":                "hostname",
		"10000\t20000":         "cat /proc/sys/net/ipv4/ip_local_port_range",
		"0":                    "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/tcp_syncookies",
		"0\t2147483647":        "cat /proc/sys/net/ipv4/ping_group_range",
		"123456":               "cat /proc/sys/kernel/shmmax",
		"4321":                 "cat /proc/sys/kernel/msgmax",
		"100\t200\t30\t40":     "cat /proc/sys/kernel/sem",
		"7":                    "cat /proc/sys/fs/mqueue/msg_max",
		"LOOPBACK,UP,LOWER_UP": "ip link show lo",
	} {
		if got := inside(t, p, strings.Fields(argv)...); !strings.Contains(got, want) {
			t.Errorf("%s prints %q, want %q", argv, got, want)
		}
	}
	if now, _ := os.Hostname(); now != host {
		t.Errorf("the host's name became %q", now)
	}
}

func TestCreateOnlyWhatIsAskedFor(t *testing.T) {
	_, p := create(t, namespace.Spec{IPC: true})
	if p.IPC == "" || p.Net+p.UTS+p.User != "" {
		t.Errorf("paths are %+v, want IPC alone", p)
	}
	_, p = create(t, namespace.Spec{})
	if p != (namespace.Paths{}) {
		t.Errorf("paths are %+v, want none", p)
	}
}

func TestCreateLeavesNothingOnError(t *testing.T) {
	parent := nsDir(t)
	for name, s := range map[string]namespace.Spec{
		"unknown sysctl":    {Net: true, IPC: true, Sysctls: map[string]string{"net.ipv4.no_such": "1"}},
		"value refused":     {Net: true, IPC: true, Sysctls: map[string]string{"net.ipv4.tcp_syncookies": "x"}},
		"ipc value refused": {Net: true, IPC: true, Sysctls: map[string]string{"kernel.msgmax": "x"}},
		"not namespaced":    {Net: true, Sysctls: map[string]string{"vm.swappiness": "1"}},
		"long hostname":     {UTS: true, Hostname: strings.Repeat("a", 65)},
		"map without root":  {Net: true, UserNS: &namespace.UserNS{UID: []namespace.IDMap{{1, 70000, 10}}, GID: []namespace.IDMap{{0, 70000, 10}}}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(parent, "pod")
			_, err := namespace.Create(dir, s)
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("error is %v, want invalid argument", err)
			}
			if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is left: %v", dir, err)
			}
		})
	}
}

func TestCreateTwice(t *testing.T) {
	dir, p := create(t, namespace.Spec{Net: true})
	if _, err := namespace.Create(dir, namespace.Spec{Net: true}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("error is %v, want already exists", err)
	}
	if got := namespace.Load(dir); got != p {
		t.Errorf("the first one's namespaces became %+v", got)
	}
}

func TestDelete(t *testing.T) {
	parent := nsDir(t)
	dir := filepath.Join(parent, "pod")
	if err := namespace.Delete(dir); err != nil {
		t.Errorf("of nothing: %v", err)
	}
	p, err := namespace.Create(dir, namespace.Spec{Net: true, IPC: true, UTS: true})
	if err != nil {
		t.Fatal(err)
	}
	held, err := os.Open(p.Net) // a plug-in that is still inside
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := unix.Mount(p.Net, p.Net, "", unix.MS_BIND, ""); err != nil { // stacked
		t.Fatal(err)
	}
	for range 2 {
		if err := namespace.Delete(dir); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left", dir)
	}

	// A daemon that died between the file and the mount.
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "net"), nil, 0o400); err != nil {
		t.Fatal(err)
	}
	if got := namespace.Load(dir); got.Net != "" {
		t.Errorf("Load takes an empty file for a namespace")
	}
	if err := namespace.Delete(dir); err != nil {
		t.Error(err)
	}
}

func TestPrepareIsIdempotentAndShared(t *testing.T) {
	dir := nsDir(t)
	for range 2 {
		if err := namespace.Prepare(dir); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for l := range strings.Lines(string(info)) {
		if strings.Contains(l, " "+dir+" ") {
			lines = append(lines, l)
		}
	}
	if len(lines) != 1 || !strings.Contains(lines[0], " shared:") {
		t.Errorf("mounts of %s: %q, want one, shared", dir, lines)
	}
	sub := filepath.Join(dir, "pod")
	if _, err := namespace.Create(sub, namespace.Spec{IPC: true}); err != nil {
		t.Fatal(err)
	}
	if err := namespace.Unprepare(dir); !errors.Is(err, unix.EBUSY) {
		t.Errorf("with a pod pinned: %v, want EBUSY", err)
	}
	if err := namespace.Delete(sub); err != nil {
		t.Fatal(err)
	}
}

func TestUserNamespaceOwnsTheOthers(t *testing.T) {
	const base = 1 << 20
	ids := []namespace.IDMap{{ContainerID: 0, HostID: base, Size: 1000}, {ContainerID: 1000, HostID: base + 5000, Size: 10}}
	_, p := create(t, namespace.Spec{
		Net: true, IPC: true, UTS: true,
		UserNS:            &namespace.UserNS{UID: ids, GID: ids},
		Hostname:          "user-0",
		UnprivilegedPorts: true, Ping: true,
		Sysctls: map[string]string{"kernel.shmmax": "123456", "kernel.sem": "100 200 30 40", "fs.mqueue.msg_max": "7", "net.ipv4.tcp_syncookies": "0"},
	})
	script := `
		set -e
		hostname; cat /proc/sys/kernel/shmmax /proc/sys/kernel/sem /proc/sys/fs/mqueue/msg_max /proc/sys/net/ipv4/tcp_syncookies
		id -u
		ip link add name probe0 type bridge && ip link del probe0 && echo owns-net
		hostname renamed && echo owns-uts
		cat /proc/self/uid_map`
	got := strings.Fields(inside(t, p, "sh", "-c", script))
	want := strings.Fields(fmt.Sprintf("user-0 123456 100 200 30 40 7 0 0 owns-net owns-uts 0 %d 1000 1000 %d 10", base, base+5000))
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("inside:\n got %q\nwant %q", got, want)
	}

	f, err := os.Open(p.User)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// The pod's limits count against its own root, not the host's.
	if owner, err := unix.IoctlGetInt(int(f.Fd()), unix.NS_GET_OWNER_UID); err != nil || owner != base {
		t.Errorf("the user namespace belongs to user %d, %v; want %d", owner, err, base)
	}
}

func TestUserNamespaceWithHostNetwork(t *testing.T) {
	ids := []namespace.IDMap{{ContainerID: 0, HostID: 1 << 20, Size: 65536}}
	_, p := create(t, namespace.Spec{IPC: true, UTS: true, UserNS: &namespace.UserNS{UID: ids, GID: ids}})
	if p.User == "" || p.IPC == "" || p.UTS == "" || p.Net != "" {
		t.Errorf("paths are %+v", p)
	}
}

func TestSetInterfaceSysctls(t *testing.T) {
	sysctls := map[string]string{"net.ipv4.conf.veth9/1.rp_filter": "2", "net.ipv4.tcp_syncookies": "0"}
	_, p := create(t, namespace.Spec{Net: true, Sysctls: sysctls})
	inside(t, p, "ip", "link", "add", "name", "veth9.1", "type", "bridge")
	if err := namespace.SetInterfaceSysctls(p.Net, sysctls); err != nil {
		t.Fatal(err)
	}
	if got := inside(t, p, "cat", "/proc/sys/net/ipv4/conf/veth9.1/rp_filter"); got != "2" {
		t.Errorf("rp_filter is %s", got)
	}
}

func BenchmarkCreateDelete(b *testing.B) {
	parent := nsDir(b)
	ids := []namespace.IDMap{{ContainerID: 0, HostID: 1 << 20, Size: 65536}}
	for _, c := range []struct {
		name string
		spec namespace.Spec
	}{
		{"ipc+uts", namespace.Spec{IPC: true, UTS: true, Hostname: "bench"}},
		{"net+ipc+uts", namespace.Spec{Net: true, IPC: true, UTS: true, Hostname: "bench", Ping: true, UnprivilegedPorts: true}},
		{"user+net+ipc+uts", namespace.Spec{Net: true, IPC: true, UTS: true, Hostname: "bench", UserNS: &namespace.UserNS{UID: ids, GID: ids}}},
	} {
		b.Run(c.name, func(b *testing.B) {
			var created, deleted time.Duration
			for i := range b.N {
				dir := filepath.Join(parent, fmt.Sprint("pod", i))
				start := time.Now()
				if _, err := namespace.Create(dir, c.spec); err != nil {
					b.Fatal(err)
				}
				mid := time.Now()
				if err := namespace.Delete(dir); err != nil {
					b.Fatal(err)
				}
				created, deleted = created+mid.Sub(start), deleted+time.Since(mid)
			}
			b.ReportMetric(float64(created.Microseconds())/float64(b.N), "create-µs")
			b.ReportMetric(float64(deleted.Microseconds())/float64(b.N), "delete-µs")
		})
	}
}
