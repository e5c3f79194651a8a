// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/pkg/image"
	"github.com/embedcri/embedcri/pkg/spec"
	"github.com/embedcri/embedcri/pkg/task"
)

// parts are what a container is made of.
type parts struct {
	meta       containerIdentity
	handler    Handler
	image      *image.Image
	rootfs     string
	namespaces spec.Namespaces
}

// buildSpec gathers what the specification depends on and has it built (the order is that of spec's doc.go).
func (p *Pod) buildSpec(ctx context.Context, c parts) (*specs.Spec, spec.User, error) {
	meta, h, img, rootfs := c.meta, c.handler, c.image, c.rootfs
	config := meta.Config.M
	sc := config.GetLinux().GetSecurityContext()
	user, err := spec.LookupUser(rootfs, config, img.Config.User)
	if err != nil {
		return nil, user, err
	}
	sources, err := spec.CheckMounts(config.GetMounts())
	if err != nil {
		return nil, user, err
	}
	if err := p.mountVolumes(ctx, meta, sources); err != nil {
		return nil, user, err
	}
	if err := relabelVolumes(meta, sources); err != nil {
		return nil, user, err
	}
	volumes, err := p.imageVolumes(meta, img, rootfs)
	if err != nil {
		return nil, user, err
	}
	devices, err := spec.FindDevices(config.GetDevices())
	if err != nil {
		return nil, user, err
	}
	seccomp, err := spec.ReadSeccomp(sc, h.Spec)
	if err != nil {
		return nil, user, err
	}
	cgroupsPath, err := spec.CgroupsPath(p.cgroupParent(), meta.ID, p.m.o.Systemd)
	if err != nil {
		return nil, user, err
	}
	oci, clamps, err := spec.Container(spec.Input{
		ID: meta.ID, PodID: p.meta.ID, Pod: p.Config(), Container: config, Image: img.Config, ImageName: config.GetImage().GetUserSpecifiedImage(),
		User: user, CgroupsPath: cgroupsPath, Hostname: p.hostname(), Namespaces: c.namespaces, Files: p.files(),
		MountSources: sources, ImageVolumes: volumes, Devices: devices, Seccomp: seccomp, Labels: meta.Labels, Handler: h.Spec, Node: p.m.o.Node,
	})
	if err != nil {
		return nil, user, err
	}
	for _, c := range clamps {
		p.m.log().V(2).Info("not as asked", "container", meta.ID, "field", c.Field, "asked", c.Asked, "given", c.Given, "why", c.Why)
	}
	names, err := spec.CDIDevices(config)
	if err != nil {
		return nil, user, err
	}
	if len(names) > 0 {
		if err := p.m.o.CDI.Inject(oci, names); err != nil {
			return nil, user, err
		}
	}
	return oci, user, nil
}

// containerNamespaces are the namespaces of the pod, or of another container, that a container joins. They have to be held until it
// has.
func (p *Pod) containerNamespaces(o *runtimeapi.NamespaceOption) (ns spec.Namespaces, release func(), err error) {
	pins := p.state.Load().Namespaces
	ns = spec.Namespaces{Net: pins.Net, IPC: pins.IPC, UTS: pins.UTS, User: pins.User}
	var init *task.Task
	switch o.GetPid() {
	case runtimeapi.NamespaceMode_POD:
		if p.namespaceOptions().GetPid() == runtimeapi.NamespaceMode_NODE {
			return ns, func() {}, nil // the pod's is the host's
		}
		p.mu.Lock()
		init = p.init
		p.mu.Unlock()
		if !p.sharesPID() || init == nil {
			return ns, func() {}, nil // there is none to join, which spec has words for
		}
	case runtimeapi.NamespaceMode_TARGET:
		const field = "linux.security_context.namespace_options.target_id"
		target, err := p.m.Container(o.GetTargetId())
		if err != nil {
			return ns, nil, fmt.Errorf("%s: %w", field, err)
		}
		if target.p != p {
			return ns, nil, fmt.Errorf("%s: container %s is in another pod: %w", field, target.ID(), errdefs.ErrInvalidArgument)
		}
		init = target.task
	default:
		return ns, func() {}, nil
	}
	f, err := init.PIDNamespace()
	if err != nil {
		return ns, nil, fmt.Errorf("join a pid namespace: %w", err)
	}
	ns.PID = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
	return ns, func() { f.Close() }, nil
}
