// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/atomicfile"
	"github.com/embedcri/embedcri/internal/failpoint"
	"github.com/embedcri/embedcri/internal/namespace"
	"github.com/embedcri/embedcri/pkg/network"
	"github.com/embedcri/embedcri/pkg/spec"
)

// Run makes a pod and returns it when it is ready. Repeated with the same name, uid, attempt and configuration it returns the same
// pod; with another configuration ErrAlreadyExists. The caller has validated c.
func (m *Manager) Run(ctx context.Context, c *runtimeapi.PodSandboxConfig, handler string) (*Pod, error) {
	h, err := m.handler(handler)
	if err != nil {
		return nil, err
	}
	d, err := digestOf(c, h.Name)
	if err != nil {
		return nil, err
	}
	key := podKey(c.GetMetadata())
	return m.podJoins.do(ctx, m.base, key, d, func(ctx context.Context, at *progress) (*Pod, error) {
		at.enter("waiting for what an earlier daemon had begun to be taken back")
		if err := m.awaitSettled(ctx, key); err != nil {
			return nil, err
		}
		if p, err := m.existing(key, d); p != nil || err != nil {
			return p, err
		}
		return m.run(ctx, key, podIdentity{
			ID: newID(), Handler: h.Name, CreatedAt: time.Now(), Config: message[*runtimeapi.PodSandboxConfig]{c},
		}, at)
	})
}

// existing returns the pod that an earlier call with the same key has made.
func (m *Manager) existing(key string, d digest) (*Pod, error) {
	m.mu.Lock()
	p := m.names[key]
	m.mu.Unlock()
	if p == nil {
		return nil, nil
	}
	if p.digest != d {
		return nil, fmt.Errorf("%s exists as %s with another configuration: %w", key, p.ID(), errdefs.ErrAlreadyExists)
	}
	if s := p.Status(); !s.Ready {
		return nil, fmt.Errorf("%s exists as %s and is %s: %w", key, p.ID(), s.State, errdefs.ErrAlreadyExists)
	}
	return p, nil
}

// run makes the pod. If that fails all is unmade; if that fails too, the pod stays listed as not ready, so that the kubelet stops
// and removes it.
func (m *Manager) run(ctx context.Context, key string, meta podIdentity, at *progress) (_ *Pod, err error) {
	if meta.Labels, err = m.levels.Init(meta.Config.M.GetLinux().GetSecurityContext().GetSelinuxOptions(), spec.Labels{}); err != nil {
		return nil, err
	}
	recorded := false // from then on the labels go with the pod
	defer func() {
		if !recorded {
			m.levels.Release(meta.Labels)
		}
	}()
	p, err := m.newPod(meta)
	if err != nil {
		return nil, err
	}
	mappings, err := spec.UserNamespaceMappings(p.namespaceOptions().GetUsernsOptions())
	if err != nil {
		return nil, err
	}
	if mappings.UIDs != nil && !m.o.Handlers[meta.Handler].Features.UserNamespaces {
		return nil, fmt.Errorf("linux.security_context.namespace_options.userns_options: the runtime of handler %q, or the kernel, cannot map ids: %w",
			meta.Handler, errdefs.ErrFailedPrecondition)
	}
	if err := namespace.ValidateSysctls(p.Config().GetLinux().GetSysctls(), p.hostNetwork(), p.hostIPC()); err != nil {
		return nil, fmt.Errorf("linux.sysctls: %w", err)
	}
	if _, err := spec.CgroupsPath(p.cgroupParent(), meta.ID, m.o.Systemd); err != nil {
		return nil, err // now, rather than at its first container
	}
	at.enter("recording")
	if err := p.op.Lock(ctx); err != nil { // whoever finds the pod half-made and stops it waits for its making to end
		return nil, err
	}
	defer p.op.Unlock()
	if err := m.podRecs.Create(meta.ID); err != nil {
		return nil, err
	}
	if err := caught(p.record); err != nil {
		return nil, errors.Join(err, m.podRecs.Delete(meta.ID))
	}
	recorded = true
	making, end := context.WithCancelCause(ctx)
	defer end(nil)
	p.endMaking, p.made = end, at.over
	m.mu.Lock()
	m.pods[meta.ID], m.names[key] = p, p
	m.mu.Unlock()

	if err := caught(func() error { return p.make(making, at) }); err != nil {
		if errors.Is(context.Cause(making), errStopped) {
			err = fmt.Errorf("%w (%v)", errStopped, err)
		}
		err = fmt.Errorf("run %s: %w", key, err)
		at.enter("taking it back")
		// Not on ctx: what was begun is taken back even if the daemon is about to stop.
		if uerr := p.removeLocked(context.WithoutCancel(ctx)); uerr != nil {
			return nil, errors.Join(err, fmt.Errorf("take it back: %w", uerr))
		}
		return nil, err
	}
	at.enter("done")
	p.stages.Store(&at.log)
	m.podStages.add(at.log)
	m.events.podReady(p)
	return p, nil
}

// errStopped ends the making of a pod that somebody stops or removes meanwhile.
var errStopped = fmt.Errorf("it was stopped while it was being made: %w", errdefs.ErrAborted)

func (p *Pod) record() error {
	err := failpoint.PodIdentity.Do(func() error {
		return p.m.podRecs.Put(p.meta.ID, identityRecord, p.meta, atomicfile.Process)
	})
	if err != nil {
		return err
	}
	p.durable = p.m.podRecs.StartSync(p.meta.ID, identityRecord)
	return p.noteStep(failpoint.PodCreating, func(s *podState) { *s = podState{State: Creating, HalfMade: true, BootID: p.m.tasks.BootID()} })
}

// make makes the pod's parts. Each is recorded before it is made.
func (p *Pod) make(ctx context.Context, at *progress) error {
	at.enter("files")
	if err := p.noteStep(failpoint.PodFiles, func(s *podState) { s.Files = true }); err != nil {
		return err
	}
	if err := p.makeFiles(); err != nil {
		return err
	}
	at.enter("namespaces")
	if err := p.makeNamespaces(); err != nil {
		return err
	}
	if !p.hostNetwork() {
		at.enter("CNI")
		if err := p.attach(network.WithProgress(ctx, at.enter)); err != nil {
			return err
		}
	}
	at.enter("hosts")
	if err := failpoint.PodHosts.Do(p.writeHosts); err != nil {
		return err
	}
	if p.sharesPID() || p.m.o.EveryPodInit {
		at.enter("init")
		if err := p.startInit(ctx); err != nil {
			return err
		}
	}
	if err := failpoint.PodDurable.Do(p.durable); err != nil {
		return err
	}
	return failpoint.PodReady.Do(func() error { return p.apply(evMade) })
}

func (p *Pod) makeNamespaces() error {
	s := namespace.Spec{Net: !p.hostNetwork(), IPC: !p.hostIPC(), UTS: !p.hostNetwork(), Hostname: p.hostname()}
	mappings, err := p.mappings()
	if err != nil {
		return err
	}
	if mappings.UIDs != nil {
		s.UserNS = &namespace.UserNS{UID: idMaps(mappings.UIDs), GID: idMaps(mappings.GIDs)}
	}
	if !s.Net && !s.IPC && !s.UTS && s.UserNS == nil {
		return nil
	}
	s.Sysctls = map[string]string{}
	if s.Net {
		maps.Copy(s.Sysctls, p.m.o.Sysctls)
	}
	maps.Copy(s.Sysctls, p.Config().GetLinux().GetSysctls())
	if err := p.noteStep(failpoint.PodPins, func(s *podState) { s.Pins = true }); err != nil {
		return err
	}
	var paths namespace.Paths
	err = failpoint.PodNamespaces.Do(func() (err error) {
		paths, err = namespace.Create(p.pinDir(), s)
		return err
	})
	if err != nil {
		return err
	}
	return p.noteStep(failpoint.PodPaths, func(s *podState) { s.Namespaces = paths })
}

// mappings are those of the pod's user namespace; empty with the node's.
func (p *Pod) mappings() (spec.Mappings, error) {
	return spec.UserNamespaceMappings(p.namespaceOptions().GetUsernsOptions())
}

func idMaps(in []specs.LinuxIDMapping) []namespace.IDMap {
	var out []namespace.IDMap
	for _, m := range in {
		out = append(out, namespace.IDMap{ContainerID: m.ContainerID, HostID: m.HostID, Size: m.Size})
	}
	return out
}

// hostID is what an id of a container is on the host.
func hostID(maps []specs.LinuxIDMapping, id uint32) int {
	for _, m := range maps {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return int(m.HostID + (id - m.ContainerID))
		}
	}
	return int(id)
}

// attach joins the pod to its networks. What CNI DEL will need is on record before ADD.
func (p *Pod) attach(ctx context.Context) error {
	c := p.Config()
	a, err := p.m.o.Network.Plan(network.Pod{
		ID: p.meta.ID, Name: c.GetMetadata().GetName(), Namespace: c.GetMetadata().GetNamespace(), UID: c.GetMetadata().GetUid(),
		NetNS: p.state.Load().Namespaces.Net, PortMappings: portMappings(c.GetPortMappings()), Annotations: c.GetAnnotations(),
		CgroupParent: p.cgroupParent(), DNS: dns(c.GetDnsConfig()),
	})
	if err != nil {
		return err
	}
	if err := p.noteStep(failpoint.PodPlan, func(s *podState) { s.Attachment = a }); err != nil {
		return err
	}
	if err := p.m.networksCollected(ctx); err != nil {
		return err
	}
	if err := failpoint.PodDurable.Do(p.durable); err != nil { // plug-ins keep files that only a DEL takes back, and that a power loss does not
		return err
	}
	done := *a // the one on record is read by others, and not to be written to
	if err := failpoint.PodAttach.Do(func() error { return p.m.o.Network.Attach(ctx, &done) }); err != nil {
		return err
	}
	if err := p.noteStep(failpoint.PodAttached, func(s *podState) { s.Attachment = &done }); err != nil {
		return err
	}
	// Those that a new interface brings with it: its conf tree appeared with it.
	return namespace.SetInterfaceSysctls(done.NetNS, c.GetLinux().GetSysctls())
}

func dns(c *runtimeapi.DNSConfig) network.DNS {
	return network.DNS{Servers: c.GetServers(), Searches: c.GetSearches(), Options: c.GetOptions()}
}

func portMappings(in []*runtimeapi.PortMapping) []network.PortMapping {
	var out []network.PortMapping
	for _, m := range in {
		if m.GetHostPort() == 0 {
			continue // "If unset or 0, no host port is mapped" (kubelet); CNI would refuse it
		}
		out = append(out, network.PortMapping{
			HostPort: m.GetHostPort(), ContainerPort: m.GetContainerPort(), HostIP: m.GetHostIp(), Protocol: protocolName(m.GetProtocol()),
		})
	}
	return out
}

func protocolName(p runtimeapi.Protocol) string {
	switch p {
	case runtimeapi.Protocol_UDP:
		return "udp"
	case runtimeapi.Protocol_SCTP:
		return "sctp"
	}
	return "tcp"
}

// hostname is what the pod's containers see.
func (p *Pod) hostname() string {
	if h := p.Config().GetHostname(); h != "" && !p.hostNetwork() {
		return h
	}
	h, _ := os.Hostname() // uname(2) does not fail
	return h
}

func (p *Pod) cgroupParent() string {
	if c := p.Config().GetLinux().GetCgroupParent(); c != "" {
		return c
	}
	return p.m.o.CgroupParent
}
