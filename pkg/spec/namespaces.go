// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const nsField = "linux.security_context.namespace_options."

// namespaces joins the pod's namespaces by path and gives the container those that are its own. Network and IPC are the pod's, or
// with CONTAINER the container's alone; a container cannot tell an unset mode from POD (both are zero), so POD follows the pod. A
// mode that leads out of the pod is refused, above all NODE where the pod does not have it. UTS goes with the pod's network.
func (b *builder) namespaces() error {
	pod, own := b.psc.GetNamespaceOptions(), b.sc.GetNamespaceOptions()
	for _, ns := range []struct {
		name     string
		pod, own runtimeapi.NamespaceMode
	}{
		{"network", pod.GetNetwork(), own.GetNetwork()},
		{"ipc", pod.GetIpc(), own.GetIpc()},
	} {
		if ns.pod == runtimeapi.NamespaceMode_TARGET {
			return invalid(nsField+ns.name, "of the pod sandbox is %v; it can be POD, CONTAINER or NODE", ns.pod)
		}
		if ns.own == runtimeapi.NamespaceMode_TARGET || ns.own == runtimeapi.NamespaceMode_NODE && ns.pod != ns.own {
			return invalid(nsField+ns.name, "is %v, but %v in the pod sandbox", ns.own, ns.pod)
		}
	}

	b.join(specs.MountNamespace, "")
	switch {
	case own.GetNetwork() == runtimeapi.NamespaceMode_CONTAINER:
		b.join(specs.NetworkNamespace, "") // with nothing in it but lo
	case pod.GetNetwork() != runtimeapi.NamespaceMode_NODE:
		b.join(specs.NetworkNamespace, b.in.Namespaces.Net)
	}
	if pod.GetNetwork() != runtimeapi.NamespaceMode_NODE {
		// The host's name goes with the host's network: such pods keep the host's UTS namespace, as in both peers.
		b.join(specs.UTSNamespace, b.in.Namespaces.UTS)
		if b.in.Namespaces.UTS == "" && b.in.Hostname != "" {
			b.g.SetHostname(b.in.Hostname) // only a new namespace is ours to name; a joined one has its name
		}
	}
	switch {
	case own.GetIpc() == runtimeapi.NamespaceMode_CONTAINER:
		b.join(specs.IPCNamespace, "")
	case pod.GetIpc() != runtimeapi.NamespaceMode_NODE:
		b.join(specs.IPCNamespace, b.in.Namespaces.IPC)
	}
	// With cgroup v1 the namespace would hide nothing (controllers are mounted one by one), and a privileged container is
	// meant to see the host's tree: containers/libpod#4363, KEP-2254.
	if b.in.Node.CgroupV2 && !b.sc.GetPrivileged() {
		b.join(specs.CgroupNamespace, "")
	}
	if err := b.pidNamespace(pod.GetPid(), own.GetPid()); err != nil {
		return err
	}
	return b.userNamespace()
}

// join adds a namespace: the one at path, or a new one.
func (b *builder) join(t specs.LinuxNamespaceType, path string) {
	l := b.g.Config.Linux
	l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: t, Path: path})
}

// pidNamespace follows the container's own mode: containers of one pod may differ (an ephemeral container targets another).
func (b *builder) pidNamespace(pod, own runtimeapi.NamespaceMode) error {
	switch own {
	case runtimeapi.NamespaceMode_CONTAINER:
		b.join(specs.PIDNamespace, "")
	case runtimeapi.NamespaceMode_NODE:
		if pod != runtimeapi.NamespaceMode_NODE {
			return invalid(nsField+"pid", "is NODE, but %v in the pod sandbox", pod)
		}
	case runtimeapi.NamespaceMode_POD:
		if pod == runtimeapi.NamespaceMode_NODE {
			return nil // what the pod's processes share is the host's
		}
		if b.in.Namespaces.PID == "" {
			return unsupported(nsField+"pid", "is POD, but the pod sandbox has no pid namespace to share")
		}
		b.join(specs.PIDNamespace, b.in.Namespaces.PID)
	case runtimeapi.NamespaceMode_TARGET:
		if b.sc.GetNamespaceOptions().GetTargetId() == "" {
			return invalid(nsField+"target_id", "is empty, but the pid mode is TARGET")
		}
		if b.in.Namespaces.PID == "" {
			return fmt.Errorf("pid namespace of the target container was not looked up: %w", errdefs.ErrInternal)
		}
		b.join(specs.PIDNamespace, b.in.Namespaces.PID)
	default:
		return invalid(nsField+"pid", "is %d, which is no known mode", own)
	}
	return nil
}

// userNamespace joins or makes the pod's user namespace. The container must ask for what the pod has, or say nothing.
func (b *builder) userNamespace() error {
	pod, own := b.psc.GetNamespaceOptions().GetUsernsOptions(), b.sc.GetNamespaceOptions().GetUsernsOptions()
	m, err := UserNamespaceMappings(pod)
	if err != nil {
		return err
	}
	if own != nil {
		o, err := UserNamespaceMappings(own)
		if err != nil {
			return err
		}
		if !slices.Equal(o.UIDs, m.UIDs) || !slices.Equal(o.GIDs, m.GIDs) {
			return invalid(nsField+"userns_options", "differs from the pod sandbox's")
		}
	}
	if m.UIDs == nil {
		return nil // the node's user namespace
	}
	b.join(specs.UserNamespace, b.in.Namespaces.User)
	if b.in.Namespaces.User == "" {
		// Not with a path: a joined namespace has its mappings, and runc warns that saying both may become an error.
		b.g.Config.Linux.UIDMappings, b.g.Config.Linux.GIDMappings = m.UIDs, m.GIDs
	}
	return nil
}

// Mappings are those of a user namespace; both nil for the node's own.
type Mappings struct {
	UIDs []specs.LinuxIDMapping
	GIDs []specs.LinuxIDMapping
}

// UserNamespaceMappings checks and translates a pod's userns_options. Without options the pod has the node's user namespace:
// the CRI assumes POD mode then, for kubelets that predate user namespaces and send no mappings. POD mode needs exactly one
// mapping of uids and one of gids, of the same shape, starting at id 0 of the container: root in the container must be
// somebody on the host, and the rootfs is shifted by one offset.
func UserNamespaceMappings(o *runtimeapi.UserNamespace) (Mappings, error) {
	const field = nsField + "userns_options."
	if o == nil {
		return Mappings{}, nil
	}
	switch o.GetMode() {
	case runtimeapi.NamespaceMode_NODE:
		if len(o.GetUids())+len(o.GetGids()) > 0 {
			return Mappings{}, invalid(field+"mode", "is NODE, but there are mappings")
		}
		return Mappings{}, nil
	case runtimeapi.NamespaceMode_POD:
	default:
		return Mappings{}, invalid(field+"mode", "is %v; it can be POD or NODE", o.GetMode())
	}
	uids, err := oneMapping(field+"uids", o.GetUids())
	if err != nil {
		return Mappings{}, err
	}
	gids, err := oneMapping(field+"gids", o.GetGids())
	if err != nil {
		return Mappings{}, err
	}
	if !slices.Equal(uids, gids) {
		return Mappings{}, invalid(field+"gids", "differ from the uids")
	}
	return Mappings{UIDs: uids, GIDs: gids}, nil
}

func oneMapping(field string, ms []*runtimeapi.IDMapping) ([]specs.LinuxIDMapping, error) {
	if len(ms) != 1 {
		return nil, invalid(field, "has %d mappings; exactly one is supported", len(ms))
	}
	out := idMappings(ms)
	if out[0].ContainerID != 0 {
		return nil, invalid(field, "leaves id 0 of the container unmapped")
	}
	return out, checkMappings(field, out)
}

// checkMappings refuses what the kernel would (user_namespaces(7)): empty ranges, and ranges that leave the 32-bit ids or reach
// (uid_t)-1, which means "no id".
func checkMappings(field string, ms []specs.LinuxIDMapping) error {
	const noID = 1<<32 - 1
	for i, m := range ms {
		switch {
		case m.Size == 0:
			return invalid(field, "mapping %d has length 0", i)
		case uint64(m.HostID)+uint64(m.Size) > noID, uint64(m.ContainerID)+uint64(m.Size) > noID:
			return invalid(field, "mapping %d goes beyond the highest id", i)
		}
	}
	return nil
}

// idMappings translates the CRI's words; nil stays nil.
func idMappings(ms []*runtimeapi.IDMapping) []specs.LinuxIDMapping {
	var out []specs.LinuxIDMapping
	for _, m := range ms {
		out = append(out, specs.LinuxIDMapping{ContainerID: m.GetContainerId(), HostID: m.GetHostId(), Size: m.GetLength()})
	}
	return out
}
