// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

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
	p.makeImageVolumes(meta, img, rootfs)
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
		MountSources: sources, Devices: devices, Seccomp: seccomp, Handler: h.Spec, Node: p.m.o.Node,
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

// mountVolumes mounts images that are asked for as volumes, and fills in where.
func (p *Pod) mountVolumes(ctx context.Context, meta containerIdentity, sources []string) error {
	n := 0
	for i, m := range meta.Config.M.GetMounts() {
		if m.GetImage() == nil {
			continue
		}
		target, id := meta.Volumes[n], meta.VolumeIDs[n]
		n++
		if err := os.MkdirAll(target, 0o711); err != nil {
			return fmt.Errorf("mounts[%d].image: %w", i, err)
		}
		if err := p.m.o.Images.MountImage(ctx, id, target); err != nil {
			return fmt.Errorf("mounts[%d].image: %w", i, err)
		}
		var err error
		if sources[i], err = subPath(target, m.GetImageSubPath()); err != nil {
			return fmt.Errorf("mounts[%d].image_sub_path: %w", i, err)
		}
	}
	return nil
}

// subPath finds a directory of an image. What it names through links must lie in the image as well.
func subPath(root, path string) (string, error) {
	if path == "" {
		return root, nil
	}
	if !filepath.IsLocal(path) {
		return "", fmt.Errorf("%q leaves the image: %w", path, errdefs.ErrInvalidArgument)
	}
	r, err := os.OpenRoot(root)
	if err != nil {
		return "", err
	}
	defer r.Close()
	st, err := r.Stat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && !st.IsDir() {
		return "", fmt.Errorf("%q is no directory of the image: %w", path, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return "", fmt.Errorf("%q: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	return filepath.EvalSymlinks(filepath.Join(root, path)) // cannot leave root: Stat would have failed; the mount is read-only
}

// unmountVolumes undoes mountVolumes. It is idempotent.
func (m *Manager) unmountVolumes(ctx context.Context, meta containerIdentity) error {
	var errs []error
	for _, target := range meta.Volumes {
		if err := m.o.Images.UnmountImage(ctx, target); err != nil {
			errs = append(errs, err)
			continue
		}
		if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// makeImageVolumes makes the directories that the image declares as volumes, in the container's own writable layer: they live and
// die with the container. (A volume of the pod at the same place is mounted over it.) One that cannot be made inside the root file
// system, because a link leads out of it, is left out.
func (p *Pod) makeImageVolumes(meta containerIdentity, img *image.Image, rootfs string) {
	if len(img.Config.Volumes) == 0 {
		return
	}
	r, err := os.OpenRoot(rootfs)
	if err != nil {
		p.m.log().Error(err, "make the volumes of the image", "container", meta.ID)
		return
	}
	defer r.Close()
	for path := range img.Config.Volumes {
		rel, err := filepath.Rel("/", filepath.Join("/", path))
		if err == nil && rel != "." {
			err = r.MkdirAll(rel, 0o755)
		}
		if err != nil {
			p.m.log().Error(err, "make a volume of the image", "container", meta.ID, "path", path)
		}
	}
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
