// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var update = flag.Bool("update", false, "write testdata/*.json anew")

// testNode is a full-featured cgroup v2 node.
func testNode() Node {
	mode, root, disk := os.FileMode(0o660), uint32(0), uint32(6)
	return Node{
		Capabilities: []string{
			"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP",
			"CAP_NET_BIND_SERVICE", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_ADMIN",
			"CAP_SYS_TIME", "CAP_MKNOD", "CAP_AUDIT_WRITE", "CAP_SETFCAP",
		},
		Seccomp: true, CgroupV2: true, CgroupMountOpts: []string{"nsdelegate", "memory_recursiveprot"},
		Swap: true, Hugetlb: true, HugepageSizes: []string{"2MB", "1GB"},
		OOMScoreAdjMin: -1000, AppArmorProfile: AppArmorDefaultProfile,
		Devices: []specs.LinuxDevice{{Path: "/dev/vda", Type: "b", Major: 254, Minor: 0, FileMode: &mode, UID: &root, GID: &disk}},
	}
}

// plain is an ordinary container of an ordinary pod, as the kubelet asks for it. Tests change what they are about.
func plain() Input {
	return Input{
		ID:    strings.Repeat("c", 64),
		PodID: strings.Repeat("d", 64),
		Pod: &runtimeapi.PodSandboxConfig{
			Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "shop", Uid: "8a1f"},
			Linux: &runtimeapi.LinuxPodSandboxConfig{
				SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
					NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
				},
			},
		},
		Container: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "server"},
			Linux: &runtimeapi.LinuxContainerConfig{
				Resources: &runtimeapi.LinuxContainerResources{CpuShares: 102, OomScoreAdj: 1000},
				SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
					NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
					MaskedPaths:      []string{"/proc/kcore", "/sys/firmware"},
					ReadonlyPaths:    []string{"/proc/sys"},
				},
			},
		},
		Image:       ocispec.ImageConfig{Entrypoint: []string{"/bin/server"}, Cmd: []string{"--listen"}, Env: []string{"LANG=C"}},
		ImageName:   "registry.example/web:1",
		User:        User{Groups: []uint32{0}},
		Rootfs:      "/run/embedcri/rootfs",
		CgroupsPath: "/kubepods/pod8a1f/" + strings.Repeat("c", 64),
		Hostname:    "web",
		Namespaces:  Namespaces{Net: "/run/embedcri/ns/d/net", IPC: "/run/embedcri/ns/d/ipc", UTS: "/run/embedcri/ns/d/uts"},
		Files: Files{
			Hosts: "/var/lib/embedcri/pods/d/hosts", Hostname: "/var/lib/embedcri/pods/d/hostname",
			ResolvConf: "/var/lib/embedcri/pods/d/resolv.conf", Shm: "/run/embedcri/pods/d/shm",
		},
		Handler: Handler{RecursiveReadOnly: true, IDMapMounts: true},
		Node:    testNode(),
	}
}

// Shorthands for the parts that tests change.
func sc(in *Input) *runtimeapi.LinuxContainerSecurityContext {
	return in.Container.Linux.SecurityContext
}
func psc(in *Input) *runtimeapi.LinuxSandboxSecurityContext { return in.Pod.Linux.SecurityContext }
func res(in *Input) *runtimeapi.LinuxContainerResources     { return in.Container.Linux.Resources }

func mount(in *Input, source string, m *runtimeapi.Mount) {
	in.Container.Mounts = append(in.Container.Mounts, m)
	in.MountSources = append(in.MountSources, source)
}

func privileged(in *Input) {
	sc(in).Privileged, psc(in).Privileged = true, true
}

func userns(in *Input) {
	m := []*runtimeapi.IDMapping{{HostId: 65536, ContainerId: 0, Length: 65536}}
	u := &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: m, Gids: m}
	psc(in).NamespaceOptions.UsernsOptions = u
	sc(in).NamespaceOptions.UsernsOptions = u
}

// golden are the requests that have a testdata/<name>.json. One feature each.
var golden = []struct {
	name string
	edit func(*Input)
}{
	{"plain", func(*Input) {}},
	{"nothing_said", func(in *Input) { // a client that sends the least
		in.Container.Linux, in.Pod.Linux = nil, nil
		in.Namespaces.PID = "/run/embedcri/ns/d/pid"
	}},
	{"process", func(in *Input) {
		in.Container.Command, in.Container.Args = []string{"/bin/sh", "-c"}, []string{"echo hi"}
		in.Container.WorkingDir = "/srv"
		in.Container.Envs = []*runtimeapi.KeyValue{{Key: "LANG", Value: []byte("de_DE")}, {Key: "A", Value: []byte("b=c")}}
		in.Container.Tty, in.Container.Stdin = true, true
	}},
	{"user", func(in *Input) {
		sc(in).RunAsUser, sc(in).RunAsGroup = &runtimeapi.Int64Value{Value: 1000}, &runtimeapi.Int64Value{Value: 2000}
		sc(in).SupplementalGroups, sc(in).SupplementalGroupsPolicy = []int64{3000, 10}, runtimeapi.SupplementalGroupsPolicy_Strict
		in.User = User{UID: 1000, GID: 2000, Groups: []uint32{10, 2000, 3000}} // what LookupUser makes of it
		sc(in).NoNewPrivs = true
	}},
	{"user_by_name", func(in *Input) {
		sc(in).RunAsUsername = "alice"
		in.User = User{UID: 1000, GID: 1000, Groups: []uint32{1000, 50000}}
	}},
	{"rlimits", func(in *Input) {
		in.Handler.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 524288}}
		in.Handler.PidsLimit = 4096
	}},
	{"rlimits_userns", func(in *Input) { // which this node may not set there
		userns(in)
		in.Handler.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 524288}}
	}},
	{"caps_add_drop", func(in *Input) {
		sc(in).Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN", "cap_sys_time"}, DropCapabilities: []string{"MKNOD", "SYS_TIME"}}
	}},
	{"caps_drop_all_add", func(in *Input) {
		sc(in).Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"NET_BIND_SERVICE"}, DropCapabilities: []string{"ALL"}}
	}},
	{"caps_add_all_drop", func(in *Input) {
		sc(in).Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"all"}, DropCapabilities: []string{"SYS_ADMIN"}}
	}},
	{"caps_ambient", func(in *Input) {
		sc(in).Capabilities = &runtimeapi.Capability{AddAmbientCapabilities: []string{"NET_BIND_SERVICE"}, DropCapabilities: []string{"ALL"}}
		in.User = User{UID: 1000, Groups: []uint32{0}}
	}},
	{"seccomp_localhost", func(in *Input) {
		sc(in).Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/var/lib/kubelet/seccomp/p.json"}
		in.Seccomp = []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}`)
	}},
	{"apparmor_default", func(in *Input) { in.Node.AppArmor = true }},
	{"apparmor_localhost", func(in *Input) {
		in.Node.AppArmor = true
		sc(in).Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "mine"}
	}},
	{"profiles_deprecated_form", func(in *Input) {
		in.Node.AppArmor = true
		sc(in).ApparmorProfile, sc(in).SeccompProfilePath = "localhost/mine", "localhost//var/lib/kubelet/seccomp/p.json"
		in.Seccomp = []byte(`{"defaultAction":"SCMP_ACT_LOG"}`)
	}},
	{"selinux", func(in *Input) {
		in.Node.SELinux = true
		sc(in).SelinuxOptions = &runtimeapi.SELinuxOption{User: "system_u", Role: "system_r", Type: "container_t", Level: "s0:c1,c2"}
		in.Labels = Labels{Process: "system_u:system_r:container_t:s0:c1,c2", Mount: "system_u:object_r:container_file_t:s0:c1,c2"}
	}},
	{"procmount_unmasked", func(in *Input) { sc(in).MaskedPaths, sc(in).ReadonlyPaths = nil, nil }},
	{"readonly_rootfs", func(in *Input) { sc(in).ReadonlyRootfs = true }},
	{"privileged", func(in *Input) {
		privileged(in)
		sc(in).Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	}},
	{"privileged_without_devices", func(in *Input) {
		privileged(in)
		in.Handler.PrivilegedWithoutHostDevices = true
	}},
	{"host_namespaces", func(in *Input) {
		n := &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_NODE}
		psc(in).NamespaceOptions, sc(in).NamespaceOptions = n, n
	}},
	{"pid_pod", func(in *Input) {
		psc(in).NamespaceOptions, sc(in).NamespaceOptions = nil, nil
		in.Namespaces.PID = "/run/embedcri/ns/d/pid"
	}},
	{"pid_target", func(in *Input) {
		sc(in).NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: "other"}
		in.Namespaces.PID = "/proc/42/ns/pid"
	}},
	{"new_namespaces", func(in *Input) { in.Namespaces = Namespaces{} }},
	{"userns", userns},
	{"userns_joined_host_network", func(in *Input) {
		userns(in)
		in.Namespaces.User = "/run/embedcri/ns/d/user"
		psc(in).NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	}},
	{"cgroup_v1", func(in *Input) {
		in.Node.CgroupV2, in.Node.Swap, in.Node.Hugetlb = false, false, false
		res(in).MemoryLimitInBytes = 64 << 20
		res(in).HugepageLimits = []*runtimeapi.HugepageLimit{{PageSize: "2MB"}}
	}},
	{"cgroup_writable", func(in *Input) { in.Handler.CgroupWritable = true }},
	{"resources", func(in *Input) {
		in.Container.Linux.Resources = &runtimeapi.LinuxContainerResources{
			CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, CpusetCpus: "0-1", CpusetMems: "0",
			MemoryLimitInBytes: 64 << 20, OomScoreAdj: -997,
			HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}, {PageSize: "64KB"}},
			Unified:        map[string]string{"memory.high": "60000000"},
		}
	}},
	{"swap", func(in *Input) {
		res(in).MemoryLimitInBytes, res(in).MemorySwapLimitInBytes = 64<<20, 96<<20
	}},
	{"mounts", func(in *Input) {
		mount(in, "/data/a", &runtimeapi.Mount{ContainerPath: "/srv/deep/a", HostPath: "/data/a"})
		mount(in, "/data/b", &runtimeapi.Mount{ContainerPath: "/srv/", HostPath: "/data/b", Readonly: true})
		mount(in, "/data/c", &runtimeapi.Mount{ContainerPath: "/c", HostPath: "/data/c", Readonly: true, RecursiveReadOnly: true})
		mount(in, "/data/d", &runtimeapi.Mount{ContainerPath: "/d", HostPath: "/data/d", MountOptions: []string{"noexec", "nodev", "nosuid"}})
	}},
	{"mounts_override", func(in *Input) {
		mount(in, "/kubelet/hosts", &runtimeapi.Mount{ContainerPath: "/etc/hosts", HostPath: "/kubelet/hosts"})
		mount(in, "/dev", &runtimeapi.Mount{ContainerPath: "/dev", HostPath: "/dev"})
		mount(in, "/sys", &runtimeapi.Mount{ContainerPath: "/sys", HostPath: "/sys"})
	}},
	{"mounts_slave", func(in *Input) {
		mount(in, "/mnt", &runtimeapi.Mount{ContainerPath: "/mnt", HostPath: "/mnt", Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER})
	}},
	{"mounts_shared", func(in *Input) {
		mount(in, "/mnt", &runtimeapi.Mount{ContainerPath: "/mnt", HostPath: "/mnt", Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL})
		mount(in, "/srv", &runtimeapi.Mount{ContainerPath: "/srv", HostPath: "/srv", Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER})
	}},
	{"mounts_idmap", func(in *Input) {
		userns(in)
		m := psc(in).NamespaceOptions.UsernsOptions.Uids
		mount(in, "/data", &runtimeapi.Mount{ContainerPath: "/data", HostPath: "/data", UidMappings: m, GidMappings: m})
	}},
	{"mounts_image", func(in *Input) {
		mount(in, "/run/embedcri/images/x/sub", &runtimeapi.Mount{ContainerPath: "/model", Image: &runtimeapi.ImageSpec{Image: "x"}, ImageSubPath: "sub"})
	}},
	{"image_volumes", func(in *Input) {
		sc(in).ReadonlyRootfs = true
		mount(in, "/data/b", &runtimeapi.Mount{ContainerPath: "/var/lib/b", HostPath: "/data/b"})
		in.ImageVolumes = map[string]string{"/var/lib/a": "/volumes/1", "/var": "/volumes/2"}
	}},
	{"no_shm", func(in *Input) { in.Files = Files{} }},
	{"devices", func(in *Input) {
		in.Container.Devices = []*runtimeapi.Device{
			{HostPath: "/dev/kvm", ContainerPath: "/dev/kvm", Permissions: "rw"},
			{HostPath: "/dev/snd", ContainerPath: "/dev/sound"},
		}
		mode, root, audio := os.FileMode(0o660), uint32(0), uint32(29)
		in.Devices = [][]specs.LinuxDevice{
			{{Path: ".", Type: "c", Major: 10, Minor: 232, FileMode: &mode, UID: &root, GID: &root}},
			{{Path: "seq", Type: "c", Major: 116, Minor: 1, FileMode: &mode, UID: &root, GID: &audio}, {Path: "by/x", Type: "c", Major: 116, Minor: 2, FileMode: &mode, UID: &root, GID: &audio}},
		}
	}},
	{"devices_owned", func(in *Input) {
		in.Container.Devices = []*runtimeapi.Device{{HostPath: "/dev/kvm", ContainerPath: "/dev/kvm", Permissions: "rwm"}}
		mode, root := os.FileMode(0o600), uint32(0)
		in.Devices = [][]specs.LinuxDevice{{{Path: ".", Type: "c", Major: 10, Minor: 232, FileMode: &mode, UID: &root, GID: &root}}}
		in.Handler.DeviceOwnership = true
		sc(in).RunAsUser, sc(in).RunAsGroup = &runtimeapi.Int64Value{Value: 1000}, &runtimeapi.Int64Value{Value: 2000}
		in.User = User{UID: 1000, GID: 2000, Groups: []uint32{2000}}
	}},
	{"annotations", func(in *Input) {
		in.Pod.Annotations = map[string]string{"run.example/a": "pod", "org.systemd.property.X": "evil", AnnotationPodID: "forged"}
		in.Container.Annotations = map[string]string{"run.example/b": "ctr", "other/c": "no"}
		in.Handler.PodAnnotations, in.Handler.ContainerAnnotations = []string{"run.example/*", "io.kubernetes.cri.*"}, []string{"run.example/*"}
		in.Image.Labels = map[string]string{"run.example/d": "from the image"}
	}},
	{"clamped", func(in *Input) {
		in.Node.OOMScoreAdjMin = 0
		res(in).OomScoreAdj = -998
		in.Node.Capabilities = []string{"CAP_CHOWN", "CAP_KILL"}
	}},
}

func TestGolden(t *testing.T) {
	for _, tt := range golden {
		t.Run(tt.name, func(t *testing.T) {
			in := plain()
			tt.edit(&in)
			pod, ctr := proto.CloneOf(in.Pod), proto.CloneOf(in.Container)
			s, clamps, err := Container(in)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(struct {
				Spec   *specs.Spec `json:"spec"`
				Clamps []Clamp     `json:"clamps,omitempty"`
			}{s, clamps}, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			file := filepath.Join("testdata", tt.name+".json")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatalf("%v (go test ./pkg/spec -update)", err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("differs from %s:\n%s", file, got)
			}
			if !proto.Equal(pod, in.Pod) || !proto.Equal(ctr, in.Container) {
				t.Error("Container changed its input")
			}
		})
	}
}
