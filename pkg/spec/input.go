// SPDX-License-Identifier: Apache-2.0

package spec

import (
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Input is all that Container looks at. It is read only: Container never writes to what it points at, and the result shares no
// memory with it that a later change could reach.
type Input struct {
	ID    string // of the container, 64 hex digits
	PodID string // of its pod

	Pod       *runtimeapi.PodSandboxConfig // as RunPodSandbox got it
	Container *runtimeapi.ContainerConfig  // as CreateContainer got it
	Image     ocispec.ImageConfig          // config section of the image; untrusted, its labels are not looked at
	ImageName string                       // reference the user asked for, for the annotation that tools read; may be empty

	User        User   // who the first process runs as, from LookupUser
	Rootfs      string // root of the container: absolute, or relative to the bundle; empty means "rootfs"
	CgroupsPath string // from CgroupsPath; empty leaves the place to the OCI runtime
	Hostname    string // of the pod as its processes see it: HOSTNAME, and the name of a UTS namespace made for the container

	Namespaces Namespaces
	Files      Files

	// MountSources[i] is the real host path behind Container.mounts[i]: symlinks resolved, existence and propagation checked
	// (CheckMounts); for an image mount, the directory where the caller mounted the image, sub path applied.
	MountSources []string
	// ImageVolumes are the directories to mount at the paths that ImageVolumes() returned: those of the container's own root
	// file system, so that they are writable even if the rest of it is not. Empty unless that is the node's policy.
	ImageVolumes map[string]string
	// Devices[i] are the device nodes behind Container.devices[i] (FindDevices): one, or all those below a directory. Their
	// paths are relative to host_path: "." for the one device.
	Devices [][]specs.LinuxDevice
	// Seccomp is the content of the profile that a Localhost seccomp profile names (ReadSeccomp); unused otherwise.
	Seccomp []byte
	// Labels are the SELinux labels (Levels.Init); empty where SELinux is off.
	Labels Labels

	Handler Handler
	Node    Node
}

// User is who a container's first process runs as. It is what the CRI reports as ContainerStatus.user.
type User struct {
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary, sorted, with GID among them (see CVE-2022-36109)
}

// Namespaces are paths of namespaces to join, such as /run/embedcri/ns/<pod>/net. The modes asked for decide whether a path is
// used: a NODE namespace is never joined by path, it is simply not unshared. An empty path means a namespace of the
// container's own for Net, IPC and UTS (a pod without pinned namespaces), and for User one made from the mappings. PID must
// be given exactly for the modes POD and TARGET.
type Namespaces struct {
	Net  string
	IPC  string
	UTS  string
	PID  string
	User string
}

// Files are host paths that every container of a pod sees at a well-known place, unless it mounts something else there. An
// empty path leaves the file out; an empty Shm gives the container a /dev/shm of its own. They belong to the pod's root, which
// with a user namespace is not the host's.
type Files struct {
	Hosts      string // at /etc/hosts
	Hostname   string // at /etc/hostname
	ResolvConf string // at /etc/resolv.conf
	Shm        string // directory at /dev/shm; ignored in pods with the host's IPC namespace, which see the host's /dev/shm
}

// Labels are SELinux labels, user:role:type:level.
type Labels struct {
	Process string
	Mount   string
}

// Handler is what the configuration says about one runtime handler, and what its OCI runtime can do.
type Handler struct {
	// PodAnnotations and ContainerAnnotations are the allow-lists of annotation keys that reach the OCI specification, as
	// path.Match patterns. Empty (the default) lets none through: runtimes act on annotations (CVE-2024-3154).
	PodAnnotations       []string
	ContainerAnnotations []string

	PrivilegedWithoutHostDevices bool // a privileged container gets no device nodes of the host…
	PrivilegedAllDevicesAllowed  bool // …but, with this too, may use any that it makes itself
	CgroupWritable               bool // /sys/fs/cgroup is mounted read-write in unprivileged containers as well (cgroup v2 only)
	DeviceOwnership              bool // device nodes belong to run_as_user and run_as_group, where given

	// UnsetSeccomp is the profile of containers whose configuration names none; nil is unconfined, as the CRI says.
	UnsetSeccomp *runtimeapi.SecurityProfile

	Rlimits   []specs.POSIXRlimit // of the first process; a type not listed is inherited from the daemon
	PidsLimit int64               // cap on tasks in the container; 0 is none (the kubelet sets its own on the pod)

	// What the OCI runtime can do; WithFeatures sets them.
	OCIVersion        string // ociVersion of specifications; empty is the newest
	RecursiveReadOnly bool   // the mount option rro
	IDMapMounts       bool   // uidMappings and gidMappings of mounts
}

// Node is what the machine, and this daemon on it, can do. DetectNode fills it.
type Node struct {
	Capabilities []string // effective capabilities of the daemon, CAP_ upper case: it cannot give away what it lacks
	Seccomp      bool     // the kernel has seccomp filters
	NoX32        bool     // the kernel has no x32 system calls: none need be filtered
	AppArmor     bool     // the AppArmor LSM is on
	SELinux      bool     // the SELinux LSM is on
	MountSetattr bool     // mount_setattr(2), Linux 5.12: recursive read-only and idmapped mounts

	CgroupV2        bool     // /sys/fs/cgroup is a cgroup2 file system (unified mode)
	CgroupMountOpts []string // superblock options of the host's cgroup2 mount to keep: nsdelegate, memory_recursiveprot
	Swap            bool     // the memory controller limits swap
	Hugetlb         bool     // there is a hugetlb controller
	HugepageSizes   []string // page sizes as the controller spells them: 2MB, 1GB

	OOMScoreAdjMin int // lowest oom_score_adj that the daemon may set: -1000 with CAP_SYS_RESOURCE

	// AppArmorProfile is the loaded profile that stands for RuntimeDefault.
	AppArmorProfile string
	// Devices are the host's device nodes, for privileged containers (HostDevices).
	Devices []specs.LinuxDevice
}

// Clamp tells of a value that was not applied as asked because the node cannot.
type Clamp struct {
	Field string // of the CRI, as api.proto spells it
	Asked string
	Given string
	Why   string
}
