// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"
)

// TestRefused holds each refusal to its class and to the name of the field that it is about.
func TestRefused(t *testing.T) {
	profile := func(p runtimeapi.SecurityProfile_ProfileType, ref string) *runtimeapi.SecurityProfile {
		return &runtimeapi.SecurityProfile{ProfileType: p, LocalhostRef: ref}
	}
	const (
		runtimeDefault = runtimeapi.SecurityProfile_RuntimeDefault
		localhost      = runtimeapi.SecurityProfile_Localhost
		bidirectional  = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
	)
	oneMount := func(m *runtimeapi.Mount) func(*Input) {
		return func(in *Input) { mount(in, "/data", m) }
	}
	badInput, badNode := errdefs.IsInvalidArgument, errdefs.IsFailedPrecondition
	for _, tt := range []struct {
		name  string
		edit  func(*Input)
		class func(error) bool
		field string
	}{
		{"no pod", func(in *Input) { in.Pod = nil }, badInput, "sandbox_config"},
		{"no container", func(in *Input) { in.Container = nil }, badInput, "config"},
		{"mounts not looked up", func(in *Input) { in.Container.Mounts = []*runtimeapi.Mount{{}} }, errdefs.IsInternal, "mount"},
		{"devices not looked up", func(in *Input) { in.Container.Devices = []*runtimeapi.Device{{}} }, errdefs.IsInternal, "device"},
		{"no command", func(in *Input) { in.Image.Entrypoint, in.Image.Cmd = nil, nil }, badInput, "command"},
		{"empty entrypoint", func(in *Input) { in.Image.Entrypoint, in.Image.Cmd = []string{""}, nil }, badInput, "command"},
		{"empty program", func(in *Input) { in.Container.Command = []string{"", "x"} }, badInput, "command"},
		{"NUL in args", func(in *Input) { in.Container.Args = []string{"a\x00b"} }, badInput, "args"},
		{"relative cwd", func(in *Input) { in.Container.WorkingDir = "srv" }, badInput, "working_dir"},
		{"env without name", func(in *Input) { in.Container.Envs = []*runtimeapi.KeyValue{{Key: "A"}, {}} }, badInput, "envs[1].key"},
		{"env name with =", func(in *Input) { in.Container.Envs = []*runtimeapi.KeyValue{{Key: "A=B"}} }, badInput, "envs[0].key"},
		{"env NUL", func(in *Input) { in.Container.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte("x\x00")}} }, badInput, "envs[0].value"},
		{"env not UTF-8", func(in *Input) { in.Container.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte{0xff}}} }, badInput, "envs[0].value"},
		{"image env NUL", func(in *Input) { in.Image.Env = []string{"A=\x00"} }, badInput, "image"},
		{"privileged in plain pod", func(in *Input) { sc(in).Privileged = true }, badInput, "linux.security_context.privileged"},
		{"unknown cap", func(in *Input) { sc(in).Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"FLY"}} }, badInput, "linux.security_context.capabilities.drop_capabilities[0]"},
		{"cap not held", func(in *Input) {
			sc(in).Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"CHOWN", "SYS_RESOURCE"}}
		}, badNode, "add_capabilities[1]"},
		{"ambient not held", func(in *Input) {
			sc(in).Capabilities = &runtimeapi.Capability{AddAmbientCapabilities: []string{"SYS_RESOURCE"}}
		}, badNode, "add_ambient_capabilities[0]"},
		{"host network in a pod without", func(in *Input) { sc(in).NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE }, badInput, "namespace_options.network"},
		{"host ipc in a pod without", func(in *Input) { sc(in).NamespaceOptions.Ipc = runtimeapi.NamespaceMode_NODE }, badInput, "namespace_options.ipc"},
		{"host pid in a pod without", func(in *Input) { sc(in).NamespaceOptions.Pid = runtimeapi.NamespaceMode_NODE }, badInput, "namespace_options.pid"},
		{"network of a target", func(in *Input) { sc(in).NamespaceOptions.Network = runtimeapi.NamespaceMode_TARGET }, badInput, "namespace_options.network"},
		{"pod's network of a target", func(in *Input) { psc(in).NamespaceOptions.Network = runtimeapi.NamespaceMode_TARGET }, badInput, "namespace_options.network"},
		{"pod pid of a pod without", func(in *Input) { sc(in).NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD }, badNode, "namespace_options.pid"},
		{"target without id", func(in *Input) { sc(in).NamespaceOptions.Pid = runtimeapi.NamespaceMode_TARGET }, badInput, "namespace_options.target_id"},
		{"unknown pid mode", func(in *Input) { sc(in).NamespaceOptions.Pid = 9 }, badInput, "namespace_options.pid"},
		{"userns differs", func(in *Input) {
			userns(in)
			m := []*runtimeapi.IDMapping{{HostId: 1 << 20, Length: 65536}}
			sc(in).NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Uids: m, Gids: m}
		}, badInput, "userns_options"},
		{"userns of the container alone", func(in *Input) { userns(in); psc(in).NamespaceOptions.UsernsOptions = nil }, badInput, "userns_options"},
		{"userns two mappings", func(in *Input) {
			userns(in)
			u := psc(in).NamespaceOptions.UsernsOptions
			u.Uids = append(u.Uids, u.Uids[0])
		}, badInput, "userns_options.uids"},
		{"userns without root", func(in *Input) {
			m := []*runtimeapi.IDMapping{{HostId: 1000, ContainerId: 1, Length: 1}}
			psc(in).NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Uids: m, Gids: m}
		}, badInput, "userns_options.uids"},
		{"userns overflow", func(in *Input) {
			m := []*runtimeapi.IDMapping{{HostId: 1<<32 - 2, Length: 2}}
			psc(in).NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Uids: m, Gids: m}
		}, badInput, "userns_options.uids"},
		{"userns uids and gids differ", func(in *Input) {
			psc(in).NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{
				Uids: []*runtimeapi.IDMapping{{HostId: 1000, Length: 10}}, Gids: []*runtimeapi.IDMapping{{HostId: 2000, Length: 10}},
			}
		}, badInput, "userns_options.gids"},
		{"userns mode", func(in *Input) {
			psc(in).NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_CONTAINER}
		}, badInput, "userns_options.mode"},
		{"userns NODE with mappings", func(in *Input) {
			userns(in)
			psc(in).NamespaceOptions.UsernsOptions.Mode = runtimeapi.NamespaceMode_NODE
		}, badInput, "userns_options.mode"},
		{"masked path", func(in *Input) { sc(in).MaskedPaths = []string{"/a", "b"} }, badInput, "linux.security_context.masked_paths[1]"},
		{"readonly path", func(in *Input) { sc(in).ReadonlyPaths = []string{""} }, badInput, "linux.security_context.readonly_paths[0]"},
		{"seccomp type", func(in *Input) { sc(in).Seccomp = profile(9, "") }, badInput, "linux.security_context.seccomp.profile_type"},
		{"seccomp ref without localhost", func(in *Input) { sc(in).Seccomp = profile(runtimeDefault, "/x") }, badInput, "seccomp.localhost_ref"},
		{"seccomp localhost without ref", func(in *Input) { sc(in).Seccomp = profile(localhost, "") }, badInput, "seccomp.localhost_ref"},
		{"seccomp relative ref", func(in *Input) { sc(in).Seccomp = profile(localhost, "x.json") }, badInput, "seccomp.localhost_ref"},
		{"seccomp path", func(in *Input) { sc(in).SeccompProfilePath = "default" }, badInput, "linux.security_context.seccomp_profile_path"},
		{"seccomp without kernel", func(in *Input) { in.Node.Seccomp = false; sc(in).Seccomp = profile(runtimeDefault, "") }, badNode, "seccomp.profile_type"},
		{"seccomp broken profile", func(in *Input) { sc(in).Seccomp = profile(localhost, "/x"); in.Seccomp = []byte("{") }, badInput, "seccomp.localhost_ref"},
		{"apparmor off", func(in *Input) { sc(in).Apparmor = profile(localhost, "mine") }, badNode, "linux.security_context.apparmor"},
		{"apparmor without ref", func(in *Input) { sc(in).Apparmor = profile(localhost, "") }, badInput, "apparmor.localhost_ref"},
		{"apparmor path", func(in *Input) { sc(in).ApparmorProfile = "mine" }, badInput, "linux.security_context.apparmor_profile"},
		{"selinux level", func(in *Input) { sc(in).SelinuxOptions = &runtimeapi.SELinuxOption{Level: "s0:c1 c2"} }, badInput, "linux.security_context.selinux_options.level"},
		{"selinux type", func(in *Input) { sc(in).SelinuxOptions = &runtimeapi.SELinuxOption{Type: "a:b"} }, badInput, "selinux_options.type"},
		{"oom score", func(in *Input) { res(in).OomScoreAdj = -1001 }, badInput, "linux.resources.oom_score_adj"},
		{"cpu shares", func(in *Input) { res(in).CpuShares = -1 }, badInput, "linux.resources.cpu_shares"},
		{"cpu period", func(in *Input) { res(in).CpuPeriod = -1 }, badInput, "linux.resources.cpu_period"},
		{"cpu quota", func(in *Input) { res(in).CpuQuota = -2 }, badInput, "linux.resources.cpu_quota"},
		{"cpuset", func(in *Input) { res(in).CpusetCpus = "0-1\n" }, badInput, "linux.resources.cpuset_cpus"},
		{"memory", func(in *Input) { res(in).MemoryLimitInBytes = -2 }, badInput, "linux.resources.memory_limit_in_bytes"},
		{"swap below memory", func(in *Input) { res(in).MemoryLimitInBytes, res(in).MemorySwapLimitInBytes = 2, 1 }, badInput, "linux.resources.memory_swap_limit_in_bytes"},
		{"hugepage size", func(in *Input) {
			res(in).HugepageLimits = []*runtimeapi.HugepageLimit{{PageSize: "../x", Limit: 1}}
		}, badInput, "linux.resources.hugepage_limits[0].page_size"},
		{"hugepages of no such size", func(in *Input) {
			res(in).HugepageLimits = []*runtimeapi.HugepageLimit{{PageSize: "64KB", Limit: 1}}
		}, badNode, "linux.resources.hugepage_limits[0]"},
		{"unified on v1", func(in *Input) { in.Node.CgroupV2 = false; res(in).Unified = map[string]string{"memory.high": "1"} }, badNode, "linux.resources.unified"},
		{"unified path", func(in *Input) { res(in).Unified = map[string]string{"../memory.high": "1"} }, badInput, "linux.resources.unified"},
		{"device path", func(in *Input) {
			in.Container.Devices, in.Devices = []*runtimeapi.Device{{ContainerPath: "x"}}, make([][]specs.LinuxDevice, 1)
		}, badInput, "devices[0].container_path"},
		{"device permissions", func(in *Input) {
			in.Container.Devices, in.Devices = []*runtimeapi.Device{{ContainerPath: "/x", Permissions: "rx"}}, make([][]specs.LinuxDevice, 1)
		}, badInput, "devices[0].permissions"},
		{"no device there", func(in *Input) {
			in.Container.Devices, in.Devices = []*runtimeapi.Device{{ContainerPath: "/x"}}, make([][]specs.LinuxDevice, 1)
		}, badInput, "devices[0].host_path"},
		{"mount target", oneMount(&runtimeapi.Mount{ContainerPath: "data", HostPath: "/data"}), badInput, "mounts[0].container_path"},
		{"mount over the root", oneMount(&runtimeapi.Mount{ContainerPath: "/x/..", HostPath: "/data"}), badInput, "mounts[0].container_path"},
		{"mount source", oneMount(&runtimeapi.Mount{ContainerPath: "/data"}), badInput, "mounts[0].host_path"},
		{"mount propagation", oneMount(&runtimeapi.Mount{ContainerPath: "/data", HostPath: "/data", Propagation: 9}), badInput, "mounts[0].propagation"},
		{"mount option", oneMount(&runtimeapi.Mount{ContainerPath: "/data", HostPath: "/data", MountOptions: []string{"noexec", "rw"}}), badInput, "mounts[0].mount_options[1]"},
		{"mount image and path", oneMount(&runtimeapi.Mount{ContainerPath: "/data", HostPath: "/data", Image: &runtimeapi.ImageSpec{}}), badInput, "mounts[0].host_path"},
		{"mount sub path without image", oneMount(&runtimeapi.Mount{ContainerPath: "/data", HostPath: "/data", ImageSubPath: "x"}), badInput, "mounts[0].image_sub_path"},
		{"rro but writable", oneMount(&runtimeapi.Mount{ContainerPath: "/data", HostPath: "/data", RecursiveReadOnly: true}), badInput, "mounts[0].recursive_read_only"},
		{"rro and shared", oneMount(&runtimeapi.Mount{ContainerPath: "/data", HostPath: "/data", Readonly: true, RecursiveReadOnly: true, Propagation: bidirectional}), badInput, "mounts[0].recursive_read_only"},
		{"rro without support", func(in *Input) {
			in.Handler.RecursiveReadOnly = false
			mount(in, "/data", &runtimeapi.Mount{ContainerPath: "/data", HostPath: "/data", Readonly: true, RecursiveReadOnly: true})
		}, badNode, crierrors.ErrRROUnsupported.Error()},
		{"idmap of uids only", oneMount(&runtimeapi.Mount{ContainerPath: "/data", HostPath: "/data", UidMappings: []*runtimeapi.IDMapping{{Length: 1}}}), badInput, "mounts[0].uidMappings"},
		{"idmap without support", func(in *Input) {
			in.Handler.IDMapMounts = false
			m := []*runtimeapi.IDMapping{{Length: 1}}
			mount(in, "/data", &runtimeapi.Mount{ContainerPath: "/data", HostPath: "/data", UidMappings: m, GidMappings: m})
		}, badNode, "mounts[0].uidMappings"},
		{"source not resolved", func(in *Input) { mount(in, "", &runtimeapi.Mount{ContainerPath: "/data", HostPath: "/data"}) }, errdefs.IsInternal, "mounts[0]"},
		{"rlimit upside down", func(in *Input) { in.Handler.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 2, Hard: 1}} }, badInput, "RLIMIT_CORE"},
		{"annotation pattern", func(in *Input) {
			in.Pod.Annotations, in.Handler.PodAnnotations = map[string]string{"a": "b"}, []string{"["}
		}, badInput, "pattern"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := plain()
			tt.edit(&in)
			s, _, err := Container(in)
			switch {
			case err == nil || s != nil:
				t.Fatal("not refused")
			case !tt.class(err):
				t.Errorf("of the wrong class: %v", err)
			case !strings.Contains(err.Error(), tt.field):
				t.Errorf("does not name %s: %v", tt.field, err)
			}
		})
	}
}

// TestSecretsStayOut checks that the value of an environment variable never gets into an error.
func TestSecretsStayOut(t *testing.T) {
	in := plain()
	in.Container.Envs = []*runtimeapi.KeyValue{{Key: "PASSWORD", Value: []byte("hunter2\x00")}}
	if _, _, err := Container(in); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error is %v", err)
	}
}
