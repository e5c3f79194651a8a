// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"cmp"
	"fmt"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-tools/generate"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Container returns the OCI specification of one container, and what could not be given as asked. See the package comment for
// its errors. CDI edits are not in it yet (CDI.Inject).
func Container(in Input) (*specs.Spec, []Clamp, error) {
	b, err := newBuilder(in)
	if err != nil {
		return nil, nil, err
	}
	// The order matters where a feature reads what another wrote: seccomp's default profile depends on the capabilities, the
	// cgroup mount on the cgroup namespace.
	for _, feature := range []func() error{
		b.process,
		b.user,
		b.privileged,
		b.capabilities,
		b.namespaces,
		b.mounts,
		b.paths,
		b.devices,
		b.resources,
		b.oomScore,
		b.rlimits,
		b.seccomp,
		b.appArmor,
		b.selinux,
		b.annotations,
	} {
		if err := feature(); err != nil {
			return nil, nil, err
		}
	}
	return b.g.Config, b.clamps, nil
}

// builder is the state of one Container call.
type builder struct {
	in     Input
	g      generate.Generator
	clamps []Clamp

	// Shorthands; the CRI's getters make nil messages read as their zero values.
	c   *runtimeapi.ContainerConfig
	sc  *runtimeapi.LinuxContainerSecurityContext
	psc *runtimeapi.LinuxSandboxSecurityContext
}

func newBuilder(in Input) (*builder, error) {
	switch {
	case in.Pod == nil:
		return nil, invalid("sandbox_config", "is missing")
	case in.Container == nil:
		return nil, invalid("config", "is missing")
	case len(in.MountSources) != len(in.Container.GetMounts()):
		return nil, fmt.Errorf("%d mount sources for %d mounts: %w", len(in.MountSources), len(in.Container.GetMounts()), errdefs.ErrInternal)
	case len(in.Devices) != len(in.Container.GetDevices()):
		return nil, fmt.Errorf("nodes of %d devices for %d devices: %w", len(in.Devices), len(in.Container.GetDevices()), errdefs.ErrInternal)
	}
	in.Rootfs = cmp.Or(in.Rootfs, "rootfs")
	in.Handler.OCIVersion = cmp.Or(in.Handler.OCIVersion, specs.Version)
	b := &builder{
		in:  in,
		c:   in.Container,
		sc:  in.Container.GetLinux().GetSecurityContext(),
		psc: in.Pod.GetLinux().GetSecurityContext(),
	}
	// Not generate.New: its defaults (a host name, ambient capabilities, 1,024 open files, its own seccomp profile) would have
	// to be taken back one by one, and a default added upstream would reach our containers unseen.
	b.g = generate.Generator{Config: &specs.Spec{
		Version: in.Handler.OCIVersion,
		Root:    &specs.Root{Path: in.Rootfs, Readonly: b.sc.GetReadonlyRootfs()},
		Process: &specs.Process{Cwd: "/"},
		Linux:   &specs.Linux{CgroupsPath: in.CgroupsPath, Resources: &specs.LinuxResources{}},
	}}
	return b, nil
}

// clamp notes that a field could not be given as asked.
func (b *builder) clamp(field string, asked, given any, why string) {
	b.clamps = append(b.clamps, Clamp{Field: field, Asked: fmt.Sprint(asked), Given: fmt.Sprint(given), Why: why})
}

// invalid is an error about a field of the request: what the client sent is wrong everywhere.
func invalid(field, format string, a ...any) error {
	return fmt.Errorf("%s %s: %w", field, fmt.Sprintf(format, a...), errdefs.ErrInvalidArgument)
}

// unsupported is an error about a field of the request that this node or handler cannot serve; another might.
func unsupported(field, format string, a ...any) error {
	return fmt.Errorf("%s %s: %w", field, fmt.Sprintf(format, a...), errdefs.ErrFailedPrecondition)
}
