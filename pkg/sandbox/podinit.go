// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"cmp"
	"context"
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/atomicfile"
	"github.com/embedcri/embedcri/internal/failpoint"
	"github.com/embedcri/embedcri/pkg/spec"
	"github.com/embedcri/embedcri/pkg/task"
)

// startInit starts the pod's own init. Containers that share a pid namespace need one that is there before the first of them and
// after the last, and whose pid 1 reaps: the kernel ends a pid namespace with its pid 1. No other pod has a process of its own,
// unless the node is configured so (Options.EveryPodInit).
//
// It is a task like a container's, with the pod's id and no root file system but the program itself.
func (p *Pod) startInit(ctx context.Context) error {
	if err := p.noteStep(failpoint.PodInit, func(s *podState) { s.Init = true }); err != nil {
		return err
	}
	id := p.meta.ID
	if err := p.m.ctrRecs.Create(id); err != nil {
		return err
	}
	meta := containerIdentity{
		ID: id, PodID: id, Handler: p.meta.Handler, CreatedAt: p.meta.CreatedAt, PodInit: true,
		Config: message[*runtimeapi.ContainerConfig]{&runtimeapi.ContainerConfig{}},
	}
	err := failpoint.PodInitRecord.Do(func() error { return p.m.ctrRecs.Put(id, identityRecord, meta, atomicfile.Process) })
	if err != nil {
		return err
	}
	// It goes with the pod's files. crun wants a /dev even where nothing is mounted there.
	dirs := []string{p.file("init-root"), p.file("init-root/dev")}
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o711); err != nil {
			return fmt.Errorf("make init's root: %w", err)
		}
	}
	// In a pod with a user namespace runc makes the mount points as that namespace's root.
	uid, gid, err := p.root()
	if err != nil {
		return err
	}
	for _, d := range dirs {
		if err := os.Chown(d, uid, gid); err != nil {
			return fmt.Errorf("make init's root: %w", err)
		}
	}
	oci, err := p.initSpec()
	if err != nil {
		return err
	}
	t, err := p.m.tasks.Create(ctx, task.Spec{ID: id, Handler: p.meta.Handler, OCI: oci})
	if err != nil {
		return fmt.Errorf("create the pod's init: %w", err)
	}
	p.mu.Lock()
	p.init = t
	p.mu.Unlock()
	if err := t.Start(ctx); err != nil {
		return fmt.Errorf("start the pod's init: %w", err)
	}
	return nil
}

// initSpec is the OCI spec of the pod's init: a read-only root with one program, no capabilities, nobody's user.
func (p *Pod) initSpec() (*specs.Spec, error) {
	cgroupsPath, err := spec.CgroupsPath(p.cgroupParent(), p.meta.ID, p.m.o.Systemd)
	if err != nil {
		return nil, err
	}
	ns := p.state.Load().Namespaces
	join := []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}}
	for t, path := range map[specs.LinuxNamespaceType]string{
		specs.NetworkNamespace: ns.Net, specs.IPCNamespace: ns.IPC, specs.UTSNamespace: ns.UTS, specs.UserNamespace: ns.User,
	} {
		if path != "" {
			join = append(join, specs.LinuxNamespace{Type: t, Path: path})
		}
	}
	return &specs.Spec{
		Version: cmp.Or(p.m.o.Handlers[p.meta.Handler].Spec.OCIVersion, specs.Version), // one that the runtime accepts
		Root:    &specs.Root{Path: p.file("init-root"), Readonly: true},
		Process: &specs.Process{
			Args: []string{"/pod-init"}, Cwd: "/", User: specs.User{UID: 65534, GID: 65534},
			NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			// Runtimes make the usual devices: without this they do so in the directory on the host, or fail (crun; runc where systemd
			// has mounted /run nodev).
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "strictatime", "mode=755", "size=64k"}},
			{Destination: "/pod-init", Type: "bind", Source: p.m.o.PodInit, Options: []string{"bind", "ro", "nosuid", "nodev"}},
		},
		Linux: &specs.Linux{
			Namespaces:    join,
			CgroupsPath:   cgroupsPath,
			MaskedPaths:   []string{"/proc/kcore", "/proc/keys", "/proc/timer_list"},
			ReadonlyPaths: []string{"/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"},
		},
	}, nil
}

func (p *Pod) stopInit(ctx context.Context) error {
	p.mu.Lock()
	t := p.init
	p.mu.Unlock()
	if t == nil {
		return nil
	}
	return t.Stop(ctx, unix.SIGKILL, 0)
}

func (p *Pod) removeInit(ctx context.Context) error {
	if !p.state.Load().Init {
		return nil
	}
	p.mu.Lock()
	t := p.init
	p.mu.Unlock()
	if t != nil {
		if err := t.Delete(ctx); err != nil {
			return err
		}
	} else { // it never came to be
		if err := p.m.discardTask(ctx, p.meta.ID, p.meta.Handler); err != nil {
			return err
		}
		if err := p.m.tasks.RemoveBundle(p.meta.ID); err != nil {
			return err
		}
	}
	if err := p.m.ctrRecs.Delete(p.meta.ID); err != nil {
		return err
	}
	p.mu.Lock()
	p.init = nil
	p.mu.Unlock()
	return p.noteUnmade(failpoint.PodInitGone, func(s *podState) { s.Init = false })
}
