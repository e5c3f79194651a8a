// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The tests in this file start real containers from what Container returns, and compare what a process in them sees with what
// was asked.

func TestRunProcess(t *testing.T) {
	eachRuntime(t, func(t *testing.T, b *box) {
		b.in.Container.WorkingDir = "/srv"
		b.in.Container.Envs = []*runtimeapi.KeyValue{{Key: "SPECIAL", Value: []byte("a=b 'c'")}}
		sc(&b.in).RunAsUsername = "alice"
		sc(&b.in).SupplementalGroups = []int64{60000}
		sc(&b.in).NoNewPrivs = true
		var err error
		if b.in.User, err = LookupUser(b.in.Rootfs, b.in.Container, ""); err != nil {
			t.Fatal(err)
		}
		equalLines(t, b.sh(`id -u; id -g; id -G; pwd; echo $SPECIAL; echo $HOSTNAME; hostname; cat /proc/self/oom_score_adj
			grep NoNewPrivs /proc/self/status; ls /proc/self/fd | tr '\n' ' '`),
			"1000", "1001", "1001 50000 60000", "/srv", "a=b 'c'", "boxed", "boxed", "500", "NoNewPrivs:\t1", "0 1 2 3") // 3 is ls itself, reading the directory
	})
}

func TestRunCapabilities(t *testing.T) {
	const show = `grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status`
	held := func(in *Input, want []string) string {
		return capMask(slices.DeleteFunc(slices.Clone(want), func(c string) bool { return !slices.Contains(in.Node.Capabilities, c) }))
	}
	none := capMask(nil)
	for _, tt := range []struct {
		name string
		edit func(*Input)
		want func(*Input) (inh, prm, eff, bnd, amb string)
	}{
		{"default", func(*Input) {}, func(in *Input) (string, string, string, string, string) {
			d := held(in, defaultCapabilities())
			return none, d, d, d, none
		}},
		{"drop all add one", func(in *Input) {
			sc(in).Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN"}, DropCapabilities: []string{"ALL"}}
		}, func(*Input) (string, string, string, string, string) {
			d := capMask([]string{"CAP_NET_ADMIN"})
			return none, d, d, d, none
		}},
		{"ambient as another user", func(in *Input) {
			sc(in).Capabilities = &runtimeapi.Capability{AddAmbientCapabilities: []string{"NET_ADMIN"}, DropCapabilities: []string{"ALL"}}
			in.User = User{UID: 1000, GID: 1000, Groups: []uint32{1000}}
		}, func(*Input) (string, string, string, string, string) {
			d := capMask([]string{"CAP_NET_ADMIN"})
			return d, d, d, d, d
		}},
		{"add all", func(in *Input) {
			sc(in).Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"ALL"}}
		}, func(in *Input) (string, string, string, string, string) {
			d := capMask(in.Node.Capabilities)
			return none, d, d, d, none
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachRuntime(t, func(t *testing.T, b *box) {
				tt.edit(&b.in)
				inh, prm, eff, bnd, amb := tt.want(&b.in)
				equalLines(t, b.sh(show), "CapInh:\t"+inh, "CapPrm:\t"+prm, "CapEff:\t"+eff, "CapBnd:\t"+bnd, "CapAmb:\t"+amb)
			})
		})
	}
}

func TestRunSeccomp(t *testing.T) {
	eachRuntime(t, func(t *testing.T, b *box) {
		sc(&b.in).Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
		equalLines(t, b.sh(`grep Seccomp: /proc/self/status; unshare -n true 2>/dev/null || echo refused`), "Seccomp:\t2", "refused")
	})
	t.Run("localhost", func(t *testing.T) {
		eachRuntime(t, func(t *testing.T, b *box) {
			profile := filepath.Join(b.dir, "seccomp.json")
			write(t, profile, `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28}]}`, 0o600)
			sc(&b.in).Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: profile}
			var err error
			if b.in.Seccomp, err = ReadSeccomp(sc(&b.in), b.in.Handler); err != nil {
				t.Fatal(err)
			}
			equalLines(t, b.sh(`mkdir /tmp/x 2>&1; touch /tmp/y && echo touched`), "mkdir: can't create directory '/tmp/x': No space left on device", "touched")
		})
	})
}

func TestRunPaths(t *testing.T) {
	eachRuntime(t, func(t *testing.T, b *box) {
		sc(&b.in).ReadonlyRootfs = true
		sc(&b.in).MaskedPaths = append(sc(&b.in).MaskedPaths, "/proc/uptime")
		equalLines(t, b.sh(`head -c1 /proc/uptime; ls /sys/firmware; touch /x 2>&1; (echo 1 > /proc/sys/kernel/panic) 2>&1; (echo 1 > /sys/class/x) 2>&1`),
			"touch: /x: Read-only file system", "/bin/sh: can't create /proc/sys/kernel/panic: Read-only file system", "/bin/sh: can't create /sys/class/x: Read-only file system")
	})
}

func TestRunMounts(t *testing.T) {
	eachRuntime(t, func(t *testing.T, b *box) {
		for _, d := range []string{"rw", "ro", "opt", "link-target"} {
			if err := os.Mkdir(filepath.Join(b.dir, d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		write(t, filepath.Join(b.dir, "opt/prog"), "#!/bin/sh\necho ran\n", 0o755)
		write(t, filepath.Join(b.dir, "link-target/f"), "found", 0o644)
		if err := os.Symlink("link-target", filepath.Join(b.dir, "link")); err != nil {
			t.Fatal(err)
		}
		hosts := filepath.Join(b.dir, "hosts")
		write(t, hosts, "127.0.0.1 localhost", 0o644)
		b.in.Files.Hosts = hosts
		at := func(p string) string { return filepath.Join(b.dir, p) }
		b.in.Container.Mounts = []*runtimeapi.Mount{
			{ContainerPath: "/srv/rw", HostPath: at("rw")},
			{ContainerPath: "/srv/ro", HostPath: at("ro"), Readonly: true},
			{ContainerPath: "/srv/opt", HostPath: at("opt"), MountOptions: []string{"noexec", "nosuid", "nodev"}},
			{ContainerPath: "/srv/link", HostPath: at("link")},
			{ContainerPath: "/srv/made", HostPath: at("made/here")},
		}
		var err error
		if b.in.MountSources, err = CheckMounts(b.in.Container.Mounts); err != nil {
			t.Fatal(err)
		}
		equalLines(t, b.sh(`cat /etc/hosts; echo
			touch /srv/rw/x && echo written; touch /srv/ro/x 2>&1; /srv/opt/prog 2>&1; cat /srv/link/f; echo; touch /srv/made/x && echo made
			grep ' /srv/opt ' /proc/self/mountinfo | grep -c nosuid,nodev,noexec`),
			"127.0.0.1 localhost", "written", "touch: /srv/ro/x: Read-only file system", "/bin/sh: /srv/opt/prog: Permission denied", "found", "made", "1")
	})
}

// TestRunRecursiveReadOnly mounts a tmpfs below the source, which a plain read-only bind would leave writable.
func TestRunRecursiveReadOnly(t *testing.T) {
	eachRuntime(t, func(t *testing.T, b *box) {
		if !b.in.Handler.RecursiveReadOnly {
			t.Skip("the runtime does not list rro among its features")
		}
		src := filepath.Join(b.dir, "src")
		if err := os.MkdirAll(filepath.Join(src, "sub"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", filepath.Join(src, "sub"), "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(filepath.Join(src, "sub"), unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
		mount(&b.in, src, &runtimeapi.Mount{ContainerPath: "/srv/ro", HostPath: src, Readonly: true})
		mount(&b.in, src, &runtimeapi.Mount{ContainerPath: "/srv/rro", HostPath: src, Readonly: true, RecursiveReadOnly: true})
		equalLines(t, b.sh(`touch /srv/ro/sub/x && echo written; touch /srv/rro/sub/x 2>&1`),
			"written", "touch: /srv/rro/sub/x: Read-only file system")
	})
}

func TestRunDevices(t *testing.T) {
	eachRuntime(t, func(t *testing.T, b *box) {
		nodes := filepath.Join(b.dir, "nodes")
		if err := os.MkdirAll(filepath.Join(nodes, "sub"), 0o755); err != nil {
			t.Fatal(err)
		}
		full, kmsg := int(unix.Mkdev(1, 7)), int(unix.Mkdev(1, 11))
		if err := unix.Mknod(filepath.Join(nodes, "sub/full"), unix.S_IFCHR|0o600, full); err != nil {
			t.Skip(err)
		}
		if err := unix.Mknod(filepath.Join(nodes, "kmsg"), unix.S_IFCHR|0o600, kmsg); err != nil {
			t.Fatal(err)
		}
		sc(&b.in).Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYSLOG"}} // kmsg asks for it
		b.in.Container.Devices = []*runtimeapi.Device{{HostPath: nodes, ContainerPath: "/dev/mine", Permissions: "r"}}
		var err error
		if b.in.Devices, err = FindDevices(b.in.Container.Devices); err != nil {
			t.Fatal(err)
		}
		// loop-control (10:237) was not asked for: making its node is allowed, opening it is not.
		equalLines(t, b.sh(`head -c1 /dev/mine/sub/full | tr '\0' z; echo; (: < /dev/mine/kmsg) && echo readable; (: > /dev/mine/kmsg) 2>&1
			mknod /tmp/lc c 10 237 && (: < /tmp/lc) 2>&1`),
			"z", "readable", "/bin/sh: can't create /dev/mine/kmsg: Operation not permitted", "/bin/sh: can't open /tmp/lc: Operation not permitted")
	})
}

func TestRunPrivileged(t *testing.T) {
	eachRuntime(t, func(t *testing.T, b *box) {
		privileged(&b.in)
		sc(&b.in).Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
		sc(&b.in).MaskedPaths = []string{"/proc/version"}
		equalLines(t, b.sh(`grep -E 'CapEff|Seccomp:' /proc/self/status; test -e /dev/kmsg && (: < /dev/kmsg) && echo device
			grep ' /sys ' /proc/self/mountinfo | grep -c ' rw,'; head -c1 /proc/version`),
			"CapEff:\t"+capMask(b.in.Node.Capabilities), "Seccomp:\t0", "device", "1", "L")
	})
}

func TestRunUserNamespace(t *testing.T) {
	eachRuntime(t, func(t *testing.T, b *box) {
		userns(&b.in)
		err := filepath.WalkDir(b.in.Rootfs, func(p string, _ os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(p, 65536, 65536)
		})
		if err != nil {
			t.Fatal(err)
		}
		equalLines(t, b.sh(`id -u; cat /proc/self/uid_map | tr -s ' '`), "0", " 0 65536 65536")
		if !b.in.Handler.IDMapMounts {
			return
		}
		// The pod's files are its root's. A volume is idmapped: what is root's on the host is root's in the container, in both
		// directions.
		hosts, data := filepath.Join(b.dir, "hosts"), filepath.Join(b.dir, "data")
		write(t, hosts, "127.0.0.1 localhost", 0o600)
		if err := os.Chown(hosts, 65536, 65536); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(data, 0o700); err != nil {
			t.Fatal(err)
		}
		b.in.Files.Hosts = hosts
		m := psc(&b.in).NamespaceOptions.UsernsOptions.Uids
		mount(&b.in, data, &runtimeapi.Mount{ContainerPath: "/srv/data", HostPath: data, UidMappings: m, GidMappings: m})
		b.in.ID += "-idmap"
		equalLines(t, b.sh(`cat /etc/hosts; echo; touch /srv/data/x && echo written`), "127.0.0.1 localhost", "written")
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(data, "x"), &st); err != nil || st.Uid != 0 {
			t.Errorf("file of the container's root belongs to %d, %v", st.Uid, err)
		}
	})
}

func TestRunExecAndUpdate(t *testing.T) {
	eachRuntime(t, func(t *testing.T, b *box) {
		mem := int64(32 << 20)
		res(&b.in).MemoryLimitInBytes, res(&b.in).CpuShares = mem, 512
		sc(&b.in).RunAsUser = &runtimeapi.Int64Value{Value: 1000}
		b.in.User = User{UID: 1000, GID: 1001, Groups: []uint32{1001}}
		b.in.Container.WorkingDir = "/srv"
		s := b.start()

		limits := `cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max`
		p, err := ExecProcess(s.Process, []string{"/bin/sh", "-c", "id -u; id -g; pwd; ls /proc/self/fd | tr '\\n' ' '; echo; " + limits}, false)
		if err != nil {
			t.Fatal(err)
		}
		run := func() string {
			j, err := json.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(b.dir, "process.json"), string(j), 0o600)
			out, err := b.cmd("exec", "--process", filepath.Join(b.dir, "process.json"), b.in.ID)
			if err != nil {
				t.Errorf("exec: %v", err)
			}
			return out
		}
		equalLines(t, run(), "1000", "1001", "/srv", "0 1 2 3 ", fmt.Sprint(mem))

		r, err := Update(s.Linux.Resources, &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 2 * mem}, b.in.Node)
		if err != nil {
			t.Fatal(err)
		}
		j, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(b.dir, "resources.json"), string(j), 0o600)
		if out, err := b.cmd("update", "--resources", filepath.Join(b.dir, "resources.json"), b.in.ID); err != nil {
			t.Fatalf("update: %v: %s", err, out)
		}
		equalLines(t, run(), "1000", "1001", "/srv", "0 1 2 3 ", fmt.Sprint(2*mem))
	})
}
