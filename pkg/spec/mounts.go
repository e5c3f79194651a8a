// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"
)

// mounts lists what is mounted in the container, in the order in which the OCI runtime will do it: the kernel file systems,
// then the pod's files and the user's mounts together, shallow paths first so that none hides a deeper one.
//
// A user's mount replaces ours at the same path, and the kernel file systems below it: who mounts the host's /dev or /sys
// wants to see what is there. The pod's files stay on top of a user's /etc, as in both peers.
func (b *builder) mounts() error {
	user, err := b.userMounts()
	if err != nil {
		return err
	}
	taken := make(map[string]bool, len(user))
	for _, m := range user {
		taken[m.Destination] = true // twice is allowed: the later one ends up on top, as with mount(8)
	}
	for _, m := range b.systemMounts() {
		if !hidden(taken, m.Destination) {
			b.g.AddMount(m)
		}
	}
	late := user
	for _, m := range slices.Concat(b.podFiles(), b.imageVolumes()) {
		if !taken[m.Destination] {
			late = append(late, m)
		}
	}
	slices.SortStableFunc(late, func(x, y specs.Mount) int { return depth(x.Destination) - depth(y.Destination) })
	for _, m := range late {
		b.g.AddMount(m)
	}
	return nil
}

// hidden tells whether the path or one above it is taken.
func hidden(taken map[string]bool, p string) bool {
	for ; p != "/"; p = path.Dir(p) {
		if taken[p] {
			return true
		}
	}
	return false
}

func depth(p string) int { return strings.Count(p, "/") }

// systemMounts are the kernel's file systems, with the options that runc's and both peers' defaults agree on.
func (b *builder) systemMounts() []specs.Mount {
	access := "ro"
	if b.sc.GetPrivileged() {
		access = "rw" // the CRI: "Any sysfs and procfs mounts are mounted RW"
	}
	ms := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: b.ptsOptions()},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		b.sysMount(access),
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: b.cgroupOptions(access)},
	}
	if b.shmSource() == "" {
		ms = append(ms, specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm",
			Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}})
	}
	return ms
}

// ptsOptions gives terminals to group tty (5), unless a user namespace has no such group: devpts refuses unmapped ids.
func (b *builder) ptsOptions() []string {
	opts := []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}
	if gids := b.psc.GetNamespaceOptions().GetUsernsOptions().GetGids(); len(gids) == 1 && gids[0].GetLength() <= 5 {
		return opts
	}
	return append(opts, "gid=5")
}

// sysMount is sysfs, or a copy of the host's where the kernel forbids a new instance: sysfs shows a network namespace, and
// mounting it needs CAP_SYS_ADMIN over that, which a pod with its own user namespace on the host's network does not have.
func (b *builder) sysMount(access string) specs.Mount {
	userns := b.psc.GetNamespaceOptions().GetUsernsOptions()
	if userns != nil && userns.GetMode() == runtimeapi.NamespaceMode_POD && b.hostNetwork() {
		readonly := "ro" // of the top alone; what is mounted below stays as the host has it
		if b.in.Handler.RecursiveReadOnly {
			readonly = "rro"
		}
		return specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"rbind", "rprivate", "nosuid", "noexec", "nodev", readonly}}
	}
	return specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}}
}

// cgroupOptions: a mount from the host's cgroup namespace resets the options of the one cgroup2 superblock, so those that the
// host's mount has are repeated where the container gets no cgroup namespace of its own (kernel: cgroup-v2.rst, "nsdelegate").
func (b *builder) cgroupOptions(access string) []string {
	if b.in.Handler.CgroupWritable && b.in.Node.CgroupV2 {
		access = "rw"
	}
	opts := []string{"nosuid", "noexec", "nodev", "relatime", access}
	if b.in.Node.CgroupV2 && b.sc.GetPrivileged() {
		opts = append(opts, b.in.Node.CgroupMountOpts...)
	}
	return opts
}

func (b *builder) hostNetwork() bool {
	return b.psc.GetNamespaceOptions().GetNetwork() == runtimeapi.NamespaceMode_NODE
}

// shmSource is the host directory at /dev/shm; empty if the container gets its own.
func (b *builder) shmSource() string {
	switch {
	case b.sc.GetNamespaceOptions().GetIpc() == runtimeapi.NamespaceMode_CONTAINER:
		return ""
	case b.psc.GetNamespaceOptions().GetIpc() == runtimeapi.NamespaceMode_NODE:
		return "/dev/shm"
	}
	return b.in.Files.Shm
}

// podFiles are the files that the pod gives each of its containers. They are read-only where the rootfs is. They are not idmapped,
// as they are on tmpfs, which learned that in 6.3 only: in a pod with a user namespace they belong to its root.
func (b *builder) podFiles() []specs.Mount {
	access := "rw"
	if b.sc.GetReadonlyRootfs() {
		access = "ro"
	}
	var out []specs.Mount
	for _, f := range []struct{ source, at string }{
		{b.in.Files.Hosts, "/etc/hosts"},
		{b.in.Files.Hostname, "/etc/hostname"},
		{b.in.Files.ResolvConf, "/etc/resolv.conf"},
	} {
		if f.source != "" {
			out = append(out, specs.Mount{Destination: f.at, Type: "bind", Source: f.source, Options: []string{"rbind", "rprivate", access}})
		}
	}
	if shm := b.shmSource(); shm != "" {
		out = append(out, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: shm, Options: []string{"rbind", "rprivate", "rw"}})
	}
	return out
}

// imageVolumes are writable even where the rootfs is not: that is what an image declares them for. They lie in the root file
// system, whose ids are mapped already.
func (b *builder) imageVolumes() []specs.Mount {
	var out []specs.Mount
	for _, at := range slices.Sorted(maps.Keys(b.in.ImageVolumes)) {
		out = append(out, specs.Mount{Destination: at, Type: "bind", Source: b.in.ImageVolumes[at], Options: []string{"bind", "rprivate", "rw"}})
	}
	return out
}

// userMounts translates Container.mounts.
func (b *builder) userMounts() ([]specs.Mount, error) {
	var out []specs.Mount
	for i, m := range b.c.GetMounts() {
		om, err := b.userMount(fmt.Sprintf("mounts[%d].", i), m, b.in.MountSources[i])
		if err != nil {
			return nil, err
		}
		out = append(out, om)
	}
	return out, nil
}

func (b *builder) userMount(field string, m *runtimeapi.Mount, source string) (specs.Mount, error) {
	none := specs.Mount{}
	if err := ValidateMount(field, m); err != nil {
		return none, err
	}
	if !path.IsAbs(source) {
		return none, fmt.Errorf("%ssource %q was not resolved: %w", field, source, errdefs.ErrInternal)
	}
	out := specs.Mount{
		Destination: path.Clean(m.GetContainerPath()),
		Type:        "bind",
		Source:      source,
		Options:     []string{"rbind", b.propagation(m.GetPropagation())},
	}
	switch {
	case m.GetRecursiveReadOnly():
		if !b.in.Handler.RecursiveReadOnly {
			// The kubelet knows this sentinel by its text.
			return none, fmt.Errorf("%srecursive_read_only is not supported by the runtime handler: %w: %w",
				field, crierrors.ErrRROUnsupported, errdefs.ErrFailedPrecondition)
		}
		out.Options = append(out.Options, "rro")
	case m.GetReadonly(), m.GetImage() != nil:
		out.Options = append(out.Options, "ro")
	default:
		out.Options = append(out.Options, "rw")
	}
	out.Options = append(out.Options, m.GetMountOptions()...)
	if len(m.GetUidMappings()) == 0 || m.GetImage() != nil {
		return out, nil // an image is mounted shifted already, see pkg/image
	}
	if !b.in.Handler.IDMapMounts {
		return none, unsupported(field+"uidMappings", "need idmapped mounts, which the runtime handler does not support")
	}
	out.UIDMappings, out.GIDMappings = idMappings(m.GetUidMappings()), idMappings(m.GetGidMappings())
	return out, nil
}

// propagation returns the mount option, and opens the container's root far enough for it to matter: runc makes the whole
// tree private otherwise.
func (b *builder) propagation(p runtimeapi.MountPropagation) string {
	l := b.g.Config.Linux
	switch p {
	case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		l.RootfsPropagation = "rshared"
		return "rshared"
	case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		if l.RootfsPropagation == "" {
			l.RootfsPropagation = "rslave"
		}
		return "rslave"
	default:
		return "rprivate"
	}
}

// mountOptions are the values of Mount.mount_options that are let through. Anything else could undo what the other fields say
// (rw, remount, rshared) or pass data to a file system.
var mountOptions = []string{"noexec", "nodev", "nosuid"}

// ValidateMount checks what can be said of a mount without looking at the disk. Field is the prefix of field names in errors,
// such as "mounts[3].".
func ValidateMount(field string, m *runtimeapi.Mount) error {
	dst := m.GetContainerPath()
	switch {
	case !path.IsAbs(dst):
		return invalid(field+"container_path", "%q is not absolute", dst)
	case path.Clean(dst) == "/":
		return invalid(field+"container_path", "is the root of the container")
	case strings.IndexByte(dst+m.GetHostPath(), 0) >= 0:
		return invalid(field+"container_path or host_path", "contains a NUL byte")
	case m.GetImage() != nil && m.GetHostPath() != "":
		return invalid(field+"host_path", "and image are both set")
	case m.GetImage() == nil && m.GetImageSubPath() != "":
		return invalid(field+"image_sub_path", "is set without an image")
	case m.GetImage() == nil && !path.IsAbs(m.GetHostPath()):
		return invalid(field+"host_path", "%q is not absolute", m.GetHostPath())
	case m.GetRecursiveReadOnly() && !m.GetReadonly():
		return invalid(field+"recursive_read_only", "is set, but readonly is not")
	case m.GetRecursiveReadOnly() && m.GetPropagation() != runtimeapi.MountPropagation_PROPAGATION_PRIVATE:
		return invalid(field+"recursive_read_only", "needs propagation PROPAGATION_PRIVATE, not %v", m.GetPropagation())
	case runtimeapi.MountPropagation_name[int32(m.GetPropagation())] == "":
		return invalid(field+"propagation", "%d is not known", m.GetPropagation())
	case (len(m.GetUidMappings()) == 0) != (len(m.GetGidMappings()) == 0):
		return invalid(field+"uidMappings", "and gidMappings must be given together")
	}
	for i, o := range m.GetMountOptions() {
		if !slices.Contains(mountOptions, o) {
			return invalid(fmt.Sprintf("%smount_options[%d]", field, i), "%q is not one of %v", o, mountOptions)
		}
	}
	if err := checkMappings(field+"uidMappings", idMappings(m.GetUidMappings())); err != nil {
		return err
	}
	return checkMappings(field+"gidMappings", idMappings(m.GetGidMappings()))
}
