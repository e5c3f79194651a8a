// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	securejoin "github.com/cyphar/filepath-securejoin"

	"github.com/embedcri/embedcri/pkg/image"
	"github.com/embedcri/embedcri/pkg/spec"
)

// What may become of the volumes that an image declares (config.Volumes) and the container mounts nothing over.
const (
	// VolumesBind makes each a mount of its directory in the container's own writable layer: it has what the image put there,
	// is writable even if the root file system is not, and lives and dies with the container.
	VolumesBind = "bind"
	// VolumesMkdir makes sure that the directories are there, and no more.
	VolumesMkdir = "mkdir"
	// VolumesIgnore does nothing.
	VolumesIgnore = "ignore"
)

// imageVolumes prepares the volumes that the image declares and returns those to mount: directories by their path in the
// container. One that cannot be made, because the image has a file in its way, is left out and logged: such images run elsewhere.
func (p *Pod) imageVolumes(meta containerIdentity, img *image.Image, rootfs string) (map[string]string, error) {
	policy := p.m.o.ImageVolumes
	if policy == VolumesIgnore {
		return nil, nil
	}
	paths, err := spec.ImageVolumes(img.Config, meta.Config.M.GetMounts())
	if err != nil {
		return nil, err
	}
	dirs := map[string]string{}
	for _, path := range paths {
		dir, err := securejoin.SecureJoin(rootfs, path) // nothing runs in there yet that could move things under our hands
		if err == nil {
			err = os.MkdirAll(dir, 0o755)
		}
		if err != nil {
			p.m.log().Error(err, "make a volume of the image", "container", meta.ID, "path", path)
			continue
		}
		if policy == VolumesBind {
			dirs[path] = dir
		}
	}
	return dirs, nil
}

// mountVolumes mounts images that are asked for as volumes, and fills in where.
func (p *Pod) mountVolumes(ctx context.Context, meta containerIdentity, sources []string) error {
	mappings, err := p.mappings()
	if err != nil {
		return err
	}
	n := 0
	for i, m := range meta.Config.M.GetMounts() {
		if m.GetImage() == nil {
			continue
		}
		req := image.VolumeRequest{
			ImageID: meta.VolumeIDs[n], Target: meta.Volumes[n],
			UIDMap: mappings.UIDs, GIDMap: mappings.GIDs, MountLabel: meta.Labels.Mount,
		}
		n++
		if err := os.MkdirAll(req.Target, 0o711); err != nil {
			return fmt.Errorf("mounts[%d].image: %w", i, err)
		}
		if err := p.m.o.Images.MountImage(ctx, req); err != nil {
			return fmt.Errorf("mounts[%d].image: %w", i, err)
		}
		if sources[i], err = subPath(req.Target, m.GetImageSubPath()); err != nil {
			return fmt.Errorf("mounts[%d].image_sub_path: %w", i, err)
		}
	}
	return nil
}

// subPath finds a directory of an image. Links on the way are the image's own affair: absolute ones, too, stay in the image.
func subPath(root, path string) (string, error) {
	if path == "" {
		return root, nil
	}
	if !filepath.IsLocal(path) {
		return "", fmt.Errorf("%q leaves the image: %w", path, errdefs.ErrInvalidArgument)
	}
	dir, err := securejoin.SecureJoin(root, path) // the image is mounted read-only: what is found stays
	if err != nil {
		return "", fmt.Errorf("%q: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	st, err := os.Lstat(dir)
	if errors.Is(err, os.ErrNotExist) || err == nil && !st.IsDir() {
		return "", fmt.Errorf("%q is no directory of the image: %w", path, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return "", fmt.Errorf("%q: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	return dir, nil
}

// relabelVolumes gives the container's mount label to the mounts that ask for it.
func relabelVolumes(meta containerIdentity, sources []string) error {
	for i, m := range meta.Config.M.GetMounts() {
		if !m.GetSelinuxRelabel() || m.GetImage() != nil { // an image is mounted with the label
			continue
		}
		if err := spec.Relabel(sources[i], meta.Labels.Mount, false); err != nil {
			return fmt.Errorf("mounts[%d].selinux_relabel: %w", i, err)
		}
	}
	return nil
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
