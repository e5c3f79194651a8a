// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"regexp"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// selinux sets the labels. A node without SELinux ignores them, as the kernel would: the kubelet passes on a pod's
// seLinuxOptions everywhere. A privileged container runs unlabelled ("label=disabled").
func (b *builder) selinux() error {
	if _, err := SELinuxOptions(b.sc.GetSelinuxOptions()); err != nil {
		return err
	}
	if !b.in.Node.SELinux {
		return nil
	}
	b.g.SetLinuxMountLabel(b.in.Labels.Mount)
	if !b.sc.GetPrivileged() {
		b.g.SetProcessSelinuxLabel(b.in.Labels.Process)
	}
	return nil
}

// Shapes of the parts of a label. A level is a sensitivity or range of them with categories: s0, s0-s15:c0.c1023, s0:c1,c2.
var (
	selinuxWord  = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)
	selinuxLevel = regexp.MustCompile(`^s[0-9]{1,4}(-s[0-9]{1,4})?(:c[0-9]{1,4}(\.c[0-9]{1,4})?(,c[0-9]{1,4}(\.c[0-9]{1,4})?)*)?$`)
)

// SELinuxOptions turns the CRI's options into those of go-selinux's label.InitLabels: "user:…", "role:…", "type:…", "level:…".
// None are asked for, none are returned.
func SELinuxOptions(o *runtimeapi.SELinuxOption) ([]string, error) {
	var out []string
	for _, p := range []struct {
		name, value string
		shape       *regexp.Regexp
	}{
		{"user", o.GetUser(), selinuxWord},
		{"role", o.GetRole(), selinuxWord},
		{"type", o.GetType(), selinuxWord},
		{"level", o.GetLevel(), selinuxLevel},
	} {
		if p.value == "" {
			continue
		}
		if !p.shape.MatchString(p.value) {
			return nil, invalid("linux.security_context.selinux_options."+p.name, "%q is malformed", p.value)
		}
		out = append(out, p.name+":"+p.value)
	}
	return out, nil
}
