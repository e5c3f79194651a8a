// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const appArmorField = "linux.security_context.apparmor"

// appArmor names the AppArmor profile, by the field or the deprecated string. A node with AppArmor confines unless told
// otherwise: no profile means the default one (kubernetes#51746). A node without it refuses to pretend.
//
// A privileged container is not confined, except by a Localhost profile that it names itself: the API leaves that open ("MAY
// have no effect"), and dropping a confinement that somebody wrote down is the worse mistake. containerd does the same.
//
// That a Localhost profile is loaded in the kernel is for the OCI runtime to find out: it fails the container if not.
func (b *builder) appArmor() error {
	p, field := b.sc.GetApparmor(), appArmorField
	if old := b.sc.GetApparmorProfile(); p == nil && old != "" { //nolint:staticcheck // deprecated, still part of the API
		field = "linux.security_context.apparmor_profile"
		var err error
		if p, err = profileOfPath(field, old); err != nil {
			return err
		}
	}
	if p != nil {
		if err := checkProfile(field, p); err != nil {
			return err
		}
	}
	confined := p != nil && p.GetProfileType() != runtimeapi.SecurityProfile_Unconfined
	if !b.in.Node.AppArmor {
		if confined && !b.sc.GetPrivileged() {
			return unsupported(field, "asks for %v, but AppArmor is off on this node", p.GetProfileType())
		}
		return nil
	}
	switch {
	case p != nil && p.GetProfileType() == runtimeapi.SecurityProfile_Localhost:
		b.g.SetProcessApparmorProfile(strings.TrimPrefix(p.GetLocalhostRef(), localhostPrefix))
	case !b.sc.GetPrivileged() && (p == nil || confined):
		b.g.SetProcessApparmorProfile(b.in.Node.AppArmorProfile)
	}
	return nil
}
