// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The validators are pure. They check what api.proto demands of a message by itself; what needs the node (an image, a profile, a
// path) is checked where the node is known. Every error is ErrInvalidArgument and names the field as api.proto spells it.

func invalid(field, format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", field, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}

func required(field, value string) error {
	if value == "" {
		return invalid(field, "must be set")
	}
	return nil
}

// first returns the first error.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// maxIDLength is generous: ours have 64 characters.
const maxIDLength = 128

// validID refuses what cannot be anybody's id, most of all a path. It lets pass more than our own ids (lower-case hex): clients
// do ask to stop and remove things under ids that other runtimes gave, and the answer to that is "not there", not "wrong".
func validID(field, id string) error {
	if err := required(field, id); err != nil {
		return err
	}
	if len(id) > maxIDLength {
		return invalid(field, "is longer than %d characters", maxIDLength)
	}
	for _, r := range id {
		if !('0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || r == '-' || r == '_') {
			return invalid(field, "%q is not an id", id)
		}
	}
	return nil
}

// isHex tells whether id could be one that we gave, or the beginning of one.
func isHex(id string) bool {
	return strings.IndexFunc(id, func(r rune) bool { return !('0' <= r && r <= '9' || 'a' <= r && r <= 'f') }) < 0
}

// enum refuses a number that the enum does not have. Proto3 enums are open: an unknown number passes the decoder, and would mean
// "private" or "unconfined" somewhere below by being nothing else.
func enum[E ~int32](field string, value E, names map[int32]string) error {
	if _, ok := names[int32(value)]; !ok {
		return invalid(field, "%d is not a known value", int32(value))
	}
	return nil
}

// seconds turns a CRI time-out into a duration. Users do ask for the largest grace period there is; it must not wrap around.
func seconds(field string, n int64) (time.Duration, error) {
	if n < 0 {
		return 0, invalid(field, "must not be negative")
	}
	if n > math.MaxInt64/int64(time.Second) {
		return math.MaxInt64, nil
	}
	return time.Duration(n) * time.Second, nil
}

func validImage(field string, i *runtimeapi.ImageSpec) error {
	return required(field+".image", i.GetImage())
}

func validCommand(cmd []string) error {
	if len(cmd) == 0 {
		return invalid("cmd", "must not be empty")
	}
	return required("cmd[0]", cmd[0])
}

func validPodConfig(c *runtimeapi.PodSandboxConfig) error {
	if c == nil {
		return invalid("config", "must be set")
	}
	if c.GetMetadata() == nil {
		return invalid("config.metadata", "must be set")
	}
	if err := first(
		required("config.metadata.name", c.GetMetadata().GetName()),
		required("config.metadata.uid", c.GetMetadata().GetUid()),
		required("config.metadata.namespace", c.GetMetadata().GetNamespace()),
		absolute("config.log_directory", c.GetLogDirectory()),
		noDotDot("config.linux.cgroup_parent", c.GetLinux().GetCgroupParent()),
	); err != nil {
		return err
	}
	if err := validDNS("config.dns_config", c.GetDnsConfig()); err != nil {
		return err
	}
	for i, p := range c.GetPortMappings() {
		if err := validPort(fmt.Sprintf("config.port_mappings[%d]", i), p); err != nil {
			return err
		}
	}
	sc := c.GetLinux().GetSecurityContext()
	if sc.GetRunAsGroup() != nil && sc.GetRunAsUser() == nil {
		return invalid("config.linux.security_context.run_as_group", "needs run_as_user")
	}
	if u := sc.GetNamespaceOptions().GetUsernsOptions(); u != nil {
		if m := u.GetMode(); m != runtimeapi.NamespaceMode_POD && m != runtimeapi.NamespaceMode_NODE {
			return invalid("config.linux.security_context.namespace_options.userns_options.mode", "must be POD or NODE")
		}
	}
	return validSecurity("config.linux.security_context", sc.GetNamespaceOptions(), sc.GetSupplementalGroupsPolicy(), sc.GetSeccomp(), sc.GetApparmor())
}

// validDNS keeps each entry to its own line of resolv.conf.
func validDNS(field string, d *runtimeapi.DNSConfig) error {
	for _, list := range []struct {
		name    string
		entries []string
	}{{"servers", d.GetServers()}, {"searches", d.GetSearches()}, {"options", d.GetOptions()}} {
		for i, e := range list.entries {
			if strings.ContainsAny(e, "\n\r\x00") {
				return invalid(fmt.Sprintf("%s.%s[%d]", field, list.name, i), "%q contains a line break or a NUL byte", e)
			}
		}
	}
	return nil
}

func validPort(field string, p *runtimeapi.PortMapping) error {
	const highest = 65535
	if n := p.GetContainerPort(); n < 0 || n > highest {
		return invalid(field+".container_port", "%d is not a port", n)
	}
	if n := p.GetHostPort(); n < 0 || n > highest { // 0 is valid and means none
		return invalid(field+".host_port", "%d is not a port", n)
	}
	return enum(field+".protocol", p.GetProtocol(), runtimeapi.Protocol_name)
}

func validContainerConfig(c *runtimeapi.ContainerConfig) error {
	if c == nil {
		return invalid("config", "must be set")
	}
	if c.GetMetadata() == nil {
		return invalid("config.metadata", "must be set")
	}
	if err := first(
		required("config.metadata.name", c.GetMetadata().GetName()),
		validImage("config.image", c.GetImage()),
		validLogPath(c.GetLogPath()),
		enum("config.stop_signal", c.GetStopSignal(), runtimeapi.Signal_name),
	); err != nil {
		return err
	}
	for i, m := range c.GetMounts() {
		if err := validMount(fmt.Sprintf("config.mounts[%d]", i), m); err != nil {
			return err
		}
	}
	for i, e := range c.GetEnvs() {
		if err := required(fmt.Sprintf("config.envs[%d].key", i), e.GetKey()); err != nil {
			return err
		}
	}
	sc := c.GetLinux().GetSecurityContext()
	const field = "config.linux.security_context"
	if sc.GetRunAsUser() != nil && sc.GetRunAsUsername() != "" {
		return invalid(field+".run_as_username", "cannot be set together with run_as_user")
	}
	if sc.GetRunAsGroup() != nil && sc.GetRunAsUser() == nil && sc.GetRunAsUsername() == "" {
		return invalid(field+".run_as_group", "needs run_as_user or run_as_username")
	}
	if ns := sc.GetNamespaceOptions(); ns.GetPid() == runtimeapi.NamespaceMode_TARGET {
		if err := validID(field+".namespace_options.target_id", ns.GetTargetId()); err != nil {
			return err
		}
	}
	return validSecurity(field, sc.GetNamespaceOptions(), sc.GetSupplementalGroupsPolicy(), sc.GetSeccomp(), sc.GetApparmor())
}

// validSecurity checks what pods and containers have in common.
func validSecurity(field string, ns *runtimeapi.NamespaceOption, policy runtimeapi.SupplementalGroupsPolicy, profiles ...*runtimeapi.SecurityProfile) error {
	if err := first(
		enum(field+".namespace_options.network", ns.GetNetwork(), runtimeapi.NamespaceMode_name),
		enum(field+".namespace_options.pid", ns.GetPid(), runtimeapi.NamespaceMode_name),
		enum(field+".namespace_options.ipc", ns.GetIpc(), runtimeapi.NamespaceMode_name),
		enum(field+".supplemental_groups_policy", policy, runtimeapi.SupplementalGroupsPolicy_name),
	); err != nil {
		return err
	}
	for i, p := range profiles {
		name := field + []string{".seccomp", ".apparmor"}[i]
		if err := enum(name+".profile_type", p.GetProfileType(), runtimeapi.SecurityProfile_ProfileType_name); err != nil {
			return err
		}
		if p.GetProfileType() == runtimeapi.SecurityProfile_Localhost {
			if err := required(name+".localhost_ref", p.GetLocalhostRef()); err != nil {
				return err
			}
		}
	}
	return nil
}

func validMount(field string, m *runtimeapi.Mount) error {
	if err := first(
		required(field+".container_path", m.GetContainerPath()),
		enum(field+".propagation", m.GetPropagation(), runtimeapi.MountPropagation_name),
	); err != nil {
		return err
	}
	switch {
	case m.GetImage() != nil && m.GetHostPath() != "":
		return invalid(field+".host_path", "must be empty for a mount of an image")
	case m.GetImage() != nil && !m.GetReadonly():
		return invalid(field+".readonly", "must be set for a mount of an image")
	case m.GetImage() == nil && m.GetHostPath() == "":
		return invalid(field+".host_path", "must be set")
	case m.GetImage() == nil && m.GetImageSubPath() != "":
		return invalid(field+".image_sub_path", "is only for a mount of an image")
	case m.GetRecursiveReadOnly() && !m.GetReadonly():
		return invalid(field+".recursive_read_only", "needs readonly")
	case m.GetRecursiveReadOnly() && m.GetPropagation() != runtimeapi.MountPropagation_PROPAGATION_PRIVATE:
		return invalid(field+".recursive_read_only", "needs PROPAGATION_PRIVATE")
	}
	return nil
}

// validLogPath keeps a container's log in the pod's log_directory: the daemon opens it as root.
func validLogPath(p string) error {
	if p == "" {
		return nil // no log is wanted
	}
	if !filepath.IsLocal(p) || strings.ContainsRune(p, 0) {
		return invalid("config.log_path", "%q leaves log_directory", p)
	}
	if filepath.Clean(p) == "." {
		return invalid("config.log_path", "%q is log_directory itself", p)
	}
	return nil
}

func absolute(field, p string) error {
	if p != "" && (!filepath.IsAbs(p) || strings.ContainsRune(p, 0)) {
		return invalid(field, "%q is not an absolute path", p)
	}
	return nil
}

func noDotDot(field, p string) error {
	for _, elem := range strings.Split(p, "/") {
		if elem == ".." {
			return invalid(field, "%q must not contain ..", p)
		}
	}
	return nil
}
