// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/pkg/cap"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// defaultCapabilities is what an unprivileged container starts from: the set that docker chose and both peers kept, on which
// images rely.
func defaultCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

const capField = "linux.security_context.capabilities."

// capabilities computes the five sets. The CRI's rules (message Capability): add gives all sets but ambient;
// add_ambient gives all sets; drop takes from all sets. ALL is applied before single names, add ALL before drop ALL, so that
// {add ALL, drop CHOWN} and {drop ALL, add CHOWN} both mean what they say; of a name in both lists, drop wins.
//
// Inheritable takes only ambient capabilities: the kernel wants them there (capabilities(7): ambient ⊆ permitted ∩
// inheritable), and any other inheritable capability can be picked up by an unprivileged user's file capabilities
// (CVE-2022-24769). The CRI's words put added ones there too; both peers stopped, and so do we.
func (b *builder) capabilities() error {
	if b.sc.GetPrivileged() {
		b.setCapabilities(slices.Clone(b.in.Node.Capabilities), nil)
		return nil
	}
	asked := b.sc.GetCapabilities()
	ambient, err := b.capabilityList("add_ambient_capabilities", asked.GetAddAmbientCapabilities())
	if err != nil {
		return err
	}
	add, err := b.capabilityList("add_capabilities", asked.GetAddCapabilities())
	if err != nil {
		return err
	}
	drop, err := b.capabilityList("drop_capabilities", asked.GetDropCapabilities())
	if err != nil {
		return err
	}

	var set []string
	switch {
	case drop.all: // nothing to start from, not even {add ALL}
	case add.all || ambient.all:
		set = slices.Clone(b.in.Node.Capabilities)
	default:
		set = b.heldDefaults()
	}
	raised := ambient.names
	if ambient.all && !drop.all {
		raised = slices.Clone(b.in.Node.Capabilities)
	}
	dropped := func(c string) bool { return slices.Contains(drop.names, c) }
	set = slices.DeleteFunc(slices.Concat(set, add.names, raised), dropped)
	b.setCapabilities(set, slices.DeleteFunc(raised, dropped))
	return nil
}

// capabilityNames is a parsed list of the CRI.
type capabilityNames struct {
	all   bool
	names []string
}

// capabilityList parses names with or without CAP_, in any case. Names that the daemon itself lacks may be dropped but not
// added: no process can give what it has not got, and the OCI runtime would fail half-way.
func (b *builder) capabilityList(list string, asked []string) (capabilityNames, error) {
	var out capabilityNames
	for i, a := range asked {
		name := strings.ToUpper(a)
		if name == "ALL" {
			out.all = true
			continue
		}
		if !strings.HasPrefix(name, "CAP_") {
			name = "CAP_" + name
		}
		field := fmt.Sprintf("%s%s[%d]", capField, list, i)
		held := slices.Contains(b.in.Node.Capabilities, name)
		if !held && !slices.Contains(cap.Known(), name) {
			return out, invalid(field, "%q is not a capability", a)
		}
		if !held && list != "drop_capabilities" {
			return out, unsupported(field, "%s cannot be given: the daemon does not hold it itself", name)
		}
		out.names = append(out.names, name)
	}
	return out, nil
}

// heldDefaults is the default set without what the daemon lacks.
func (b *builder) heldDefaults() []string {
	return slices.DeleteFunc(defaultCapabilities(), func(c string) bool {
		lacks := !slices.Contains(b.in.Node.Capabilities, c)
		if lacks {
			b.clamp(capField+"add_capabilities", c, "", "a default capability that the daemon does not hold itself")
		}
		return lacks
	})
}

// setCapabilities writes the sets sorted and without doubles, so that equal requests make equal specifications.
func (b *builder) setCapabilities(set, ambient []string) {
	sorted := func(s []string) []string {
		s = slices.Clone(s)
		slices.Sort(s)
		return slices.Compact(s)
	}
	set, ambient = sorted(set), sorted(ambient)
	b.g.Config.Process.Capabilities = &specs.LinuxCapabilities{
		Bounding:    set,
		Effective:   slices.Clone(set),
		Permitted:   slices.Clone(set),
		Inheritable: ambient,
		Ambient:     slices.Clone(ambient),
	}
}
