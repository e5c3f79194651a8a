// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// devices says which device nodes exist and which may be used. The list starts by denying all; the OCI runtime itself adds
// the harmless ones (null, zero, full, random, urandom, tty, ptmx, pts/*, console).
func (b *builder) devices() error {
	b.g.AddLinuxResourcesDevice(false, "a", nil, nil, "rwm")
	h := b.in.Handler
	if b.sc.GetPrivileged() {
		if !h.PrivilegedWithoutHostDevices {
			for _, d := range b.in.Node.Devices {
				b.g.AddDevice(copyDevice(d))
			}
		}
		if !h.PrivilegedWithoutHostDevices || h.PrivilegedAllDevicesAllowed {
			b.g.AddLinuxResourcesDevice(true, "a", nil, nil, "rwm")
		}
	}
	for i, d := range b.c.GetDevices() {
		if err := b.device(fmt.Sprintf("devices[%d].", i), d, b.in.Devices[i]); err != nil {
			return err
		}
	}
	return nil
}

// device adds the nodes behind one device of the request, which may be a directory of them.
func (b *builder) device(field string, d *runtimeapi.Device, nodes []specs.LinuxDevice) error {
	if !path.IsAbs(d.GetContainerPath()) {
		return invalid(field+"container_path", "%q is not absolute", d.GetContainerPath())
	}
	access, err := deviceAccess(field, d.GetPermissions())
	if err != nil {
		return err
	}
	if len(nodes) == 0 {
		return invalid(field+"host_path", "%q holds no device", d.GetHostPath())
	}
	for _, n := range nodes {
		n = copyDevice(n)
		n.Path = path.Join(d.GetContainerPath(), n.Path)
		if b.in.Handler.DeviceOwnership {
			if u := b.sc.GetRunAsUser(); u != nil {
				n.UID = &b.in.User.UID
			}
			if g := b.sc.GetRunAsGroup(); g != nil {
				n.GID = &b.in.User.GID
			}
		}
		b.g.AddDevice(n) // replaces one at the same path, such as a privileged container's
		b.g.AddLinuxResourcesDevice(true, n.Type, &n.Major, &n.Minor, access)
	}
	return nil
}

// deviceAccess checks permissions; none means all, as in both peers.
func deviceAccess(field, permissions string) (string, error) {
	if permissions == "" {
		return "rwm", nil
	}
	for i, p := range permissions {
		if !strings.ContainsRune("rwm", p) || strings.ContainsRune(permissions[:i], p) {
			return "", invalid(field+"permissions", "%q is not made of r, w and m, each at most once", permissions)
		}
	}
	return permissions, nil
}

// copyDevice copies what a LinuxDevice points at, so that the result shares nothing with the input.
func copyDevice(d specs.LinuxDevice) specs.LinuxDevice {
	d.FileMode, d.UID, d.GID = clone(d.FileMode), clone(d.UID), clone(d.GID)
	return d
}

func clone[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}
