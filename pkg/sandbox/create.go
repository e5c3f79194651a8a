// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/atomicfile"
	"github.com/embedcri/embedcri/internal/ctxlock"
	"github.com/embedcri/embedcri/internal/failpoint"
	"github.com/embedcri/embedcri/pkg/image"
	"github.com/embedcri/embedcri/pkg/ioattach"
	"github.com/embedcri/embedcri/pkg/spec"
	"github.com/embedcri/embedcri/pkg/task"
)

// CreateContainer makes a container in the pod, parked before its program. Repeated with the same name, attempt and configuration
// it returns the same container; with another configuration ErrAlreadyExists. The caller has validated c.
func (p *Pod) CreateContainer(ctx context.Context, c *runtimeapi.ContainerConfig) (*Container, error) {
	d, err := digestOf(c, p.meta.ID)
	if err != nil {
		return nil, err
	}
	key := containerKey(p.meta.ID, c.GetMetadata())
	return p.m.ctrJoins.do(ctx, p.m.base, key, d, func(ctx context.Context, at *progress) (*Container, error) {
		if c, err := p.existingContainer(key, d); c != nil || err != nil {
			return c, err
		}
		end, err := p.beginCreate()
		if err != nil {
			return nil, err
		}
		defer end()
		ctr, err := p.create(ctx, c, d, at)
		if err != nil {
			return nil, fmt.Errorf("create %s: %w", key, err)
		}
		return ctr, nil
	})
}

// existingContainer returns the container that an earlier call with the same key has made.
func (p *Pod) existingContainer(key string, d digest) (*Container, error) {
	p.mu.Lock()
	c := p.names[key]
	p.mu.Unlock()
	switch {
	case c == nil:
		return nil, nil
	case c.digest != d:
		return nil, fmt.Errorf("%s exists as %s with another configuration: %w", key, c.ID(), errdefs.ErrAlreadyExists)
	case c.Status().State != task.Created:
		return nil, fmt.Errorf("%s exists as %s and is %s: %w", key, c.ID(), c.Status().State, errdefs.ErrAlreadyExists)
	}
	return c, nil
}

// create makes a container. If that fails all is taken back; if that fails too, it is tried again until it succeeds, and until then
// the record stays.
func (p *Pod) create(ctx context.Context, config *runtimeapi.ContainerConfig, d digest, at *progress) (c *Container, err error) {
	id := newID()
	err = caught(func() (err error) {
		c, err = p.createAs(ctx, id, config, d, at)
		return err
	})
	if err != nil {
		at.enter("taking back")
		return nil, errors.Join(err, p.takeBack(id, p.meta.Handler))
	}
	return c, nil
}

// createAs makes the container's parts. The record comes first, so that neither an error nor a daemon's death from there on leaves
// anything that nobody knows of.
func (p *Pod) createAs(ctx context.Context, id string, config *runtimeapi.ContainerConfig, d digest, at *progress) (*Container, error) {
	m := p.m
	h, err := m.handler(p.meta.Handler)
	if err != nil {
		return nil, err
	}
	img, err := m.o.Images.Image(config.GetImage().GetImage())
	if err != nil {
		return nil, fmt.Errorf("image.image: %w", err)
	}
	logPath, err := logPath(p.Config().GetLogDirectory(), config.GetLogPath())
	if err != nil {
		return nil, err
	}
	sig, err := spec.StopSignal(img.Config.StopSignal, config.GetStopSignal())
	if err != nil {
		if config.GetStopSignal() != runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
			return nil, err
		}
		m.log().Info("image names no valid stop signal; SIGTERM it is", "image", img.Name(), "err", err)
	}
	labels, err := m.levels.Init(config.GetLinux().GetSecurityContext().GetSelinuxOptions(), p.meta.Labels)
	if err != nil {
		return nil, err
	}
	made := false
	defer func() {
		if !made {
			m.levels.Release(labels)
		}
	}()
	meta := containerIdentity{
		ID: id, PodID: p.meta.ID, Handler: p.meta.Handler, CreatedAt: time.Now(),
		ImageID: img.ID, ImageRef: imageRef(img), LogPath: logPath, Signal: int(sig), Labels: labels,
		Config: message[*runtimeapi.ContainerConfig]{config},
	}
	at.enter("recording")
	if err := m.ctrRecs.Create(meta.ID); err != nil {
		return nil, err
	}
	err = failpoint.ContainerIdentity.Do(func() error { return m.ctrRecs.Put(meta.ID, identityRecord, meta, atomicfile.Process) })
	if err != nil {
		return nil, err
	}
	at.enter("root file system")
	rootfs := m.tasks.Rootfs(meta.ID)
	if err := os.MkdirAll(rootfs, 0o711); err != nil {
		return nil, fmt.Errorf("make bundle: %w", err)
	}
	mappings, err := p.mappings()
	if err != nil {
		return nil, err
	}
	req := image.RootfsRequest{
		ContainerID: meta.ID, ImageID: img.ID, Target: rootfs,
		UIDMap: mappings.UIDs, GIDMap: mappings.GIDs, MountLabel: meta.Labels.Mount,
	}
	if err := m.o.Images.CreateRootfs(ctx, req); err != nil {
		return nil, err
	}
	for i, mnt := range config.GetMounts() {
		if mnt.GetImage() != nil {
			volume, err := m.o.Images.Image(mnt.GetImage().GetImage())
			if err != nil {
				return nil, fmt.Errorf("mounts[%d].image: %w", i, err)
			}
			meta.VolumeIDs = append(meta.VolumeIDs, volume.ID)
			meta.Volumes = append(meta.Volumes, filepath.Join(m.tasks.Dir(meta.ID), fmt.Sprintf("volume-%d", i)))
		}
	}
	if len(meta.Volumes) > 0 {
		err = failpoint.ContainerVolumes.Do(func() error { return m.ctrRecs.Put(meta.ID, identityRecord, meta, atomicfile.Process) })
		if err != nil {
			return nil, err
		}
	}
	at.enter("specification")
	ns, release, err := p.containerNamespaces(config.GetLinux().GetSecurityContext().GetNamespaceOptions())
	if err != nil {
		return nil, err
	}
	defer release()
	oci, user, err := p.buildSpec(ctx, parts{meta, h, img, rootfs, ns})
	if err != nil {
		return nil, err
	}
	meta.User = user
	meta.Streams = ioattach.Options{
		LogPath: logPath, TTY: config.GetTty(), Stdin: config.GetStdin(), StdinOnce: config.GetStdinOnce(),
		UID: hostID(mappings.UIDs, user.UID), GID: hostID(mappings.GIDs, user.GID), Label: meta.Labels.Mount,
	}
	if logPath != "" {
		if err := os.MkdirAll(filepath.Dir(logPath), 0o755); err != nil {
			return nil, fmt.Errorf("log_path: %w", err)
		}
	}
	err = failpoint.ContainerComplete.Do(func() error { return m.ctrRecs.Put(meta.ID, identityRecord, meta, atomicfile.Process) })
	if err != nil {
		return nil, err
	}
	durable := m.ctrRecs.StartSync(meta.ID, identityRecord) // nothing that the runtime makes outlives a power loss
	at.enter("runtime create")
	t, err := m.tasks.Create(ctx, task.Spec{ID: meta.ID, Handler: meta.Handler, OCI: oci, Streams: meta.Streams})
	if err != nil {
		return nil, err
	}
	if err := failpoint.ContainerDurable.Do(durable); err != nil {
		return nil, errors.Join(err, t.Stop(context.WithoutCancel(ctx), unix.SIGKILL, 0), t.Delete(context.WithoutCancel(ctx)))
	}
	at.enter("done")
	m.ctrStages.add(at.log)
	c := &Container{p: p, meta: meta, digest: d, task: t, op: ctxlock.New(), stages: at.log}
	p.adopt(c)
	made = true
	m.events.created(c)
	return c, nil
}

// logPath joins the pod's log directory and the container's log path, which must not lead out of it.
func logPath(dir, path string) (string, error) {
	switch {
	case dir == "" || path == "":
		return "", nil
	case !filepath.IsAbs(dir):
		return "", fmt.Errorf("log_directory: %q is not absolute: %w", dir, errdefs.ErrInvalidArgument)
	case !filepath.IsLocal(path):
		return "", fmt.Errorf("log_path: %q leaves the log directory: %w", path, errdefs.ErrInvalidArgument)
	}
	return filepath.Join(dir, path), nil
}

// imageRef is a name by digest, which is what ContainerStatus.image_ref and the kubelet want; else the id.
func imageRef(img *image.Image) string {
	for _, r := range img.RepoDigests {
		if strings.Contains(r, "@") {
			return r
		}
	}
	return img.ID
}
