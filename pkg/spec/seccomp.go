// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const seccompField = "linux.security_context.seccomp"

// MaxSeccompProfile is the largest Localhost profile that is read, in bytes. Real ones have about 10 KiB.
const MaxSeccompProfile = 1 << 20

// seccomp sets the filter. The default profile depends on the capabilities (it allows what they allow), so this comes after
// them.
func (b *builder) seccomp() error {
	p, err := SeccompProfile(b.sc, b.in.Handler)
	if err != nil || p.GetProfileType() == runtimeapi.SecurityProfile_Unconfined {
		return err
	}
	if !b.in.Node.Seccomp {
		return unsupported(seccompField+".profile_type", "is %v, but the kernel has no seccomp", p.GetProfileType())
	}
	if p.GetProfileType() == runtimeapi.SecurityProfile_RuntimeDefault {
		b.g.Config.Linux.Seccomp = defaultSeccomp(b.g.Config, b.in.Node)
		return nil
	}
	parsed, err := ParseSeccomp(b.in.Seccomp)
	if err != nil {
		return fmt.Errorf("%s.localhost_ref %q: %w", seccompField, p.GetLocalhostRef(), err)
	}
	b.g.Config.Linux.Seccomp = parsed
	return nil
}

// SeccompProfile returns the profile that applies: the field, else the deprecated path, else what the handler sets for neither,
// else Unconfined (api.proto on seccomp_profile_path: "" is identical with unconfined). Privileged containers are unconfined
// whatever they ask ("Seccomp restrictions are not applied"). A Localhost result has an absolute localhost_ref.
func SeccompProfile(sc *runtimeapi.LinuxContainerSecurityContext, h Handler) (*runtimeapi.SecurityProfile, error) {
	unconfined := &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	p, field := sc.GetSeccomp(), seccompField
	if old := sc.GetSeccompProfilePath(); p == nil && old != "" { //nolint:staticcheck // deprecated, still part of the API
		field = "linux.security_context.seccomp_profile_path"
		var err error
		if p, err = profileOfPath(field, old); err != nil {
			return nil, err
		}
	}
	if p == nil {
		p, field = h.UnsetSeccomp, "runtime handler's unset seccomp profile"
	}
	if p == nil || sc.GetPrivileged() {
		return unconfined, nil
	}
	if err := checkProfile(field, p); err != nil {
		return nil, err
	}
	if p.GetProfileType() == runtimeapi.SecurityProfile_Localhost {
		ref := strings.TrimPrefix(p.GetLocalhostRef(), localhostPrefix)
		if !path.IsAbs(ref) {
			return nil, invalid(field+".localhost_ref", "%q is not an absolute path", ref)
		}
		p = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: path.Clean(ref)}
	}
	return p, nil
}

const localhostPrefix = "localhost/"

// ParseUnsetSeccomp reads the profile that a handler's configuration gives to containers which name none: runtime/default,
// localhost/<absolute path>, unconfined; empty is nil, which is unconfined as well.
func ParseUnsetSeccomp(s string) (*runtimeapi.SecurityProfile, error) {
	if s == "" {
		return nil, nil
	}
	p, err := profileOfPath("unset_seccomp", s)
	if err == nil && p.GetProfileType() == runtimeapi.SecurityProfile_Localhost && !path.IsAbs(p.GetLocalhostRef()) {
		err = invalid("unset_seccomp", "%q is not an absolute path", p.GetLocalhostRef())
	}
	return p, err
}

// profileOfPath reads the deprecated one-string form of a profile.
func profileOfPath(field, s string) (*runtimeapi.SecurityProfile, error) {
	switch {
	case s == "runtime/default", s == "docker/default": // the second is Kubernetes' own older name
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}, nil
	case s == "unconfined":
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, nil
	case strings.HasPrefix(s, localhostPrefix):
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: strings.TrimPrefix(s, localhostPrefix)}, nil
	}
	return nil, invalid(field, "%q is not runtime/default, unconfined or localhost/…", s)
}

// checkProfile holds a SecurityProfile to its comments in api.proto.
func checkProfile(field string, p *runtimeapi.SecurityProfile) error {
	localhost := p.GetProfileType() == runtimeapi.SecurityProfile_Localhost
	switch {
	case runtimeapi.SecurityProfile_ProfileType_name[int32(p.GetProfileType())] == "":
		return invalid(field+".profile_type", "%d is not known", p.GetProfileType())
	case localhost && p.GetLocalhostRef() == "":
		return invalid(field+".localhost_ref", "is empty, but profile_type is Localhost")
	case !localhost && p.GetLocalhostRef() != "":
		return invalid(field+".localhost_ref", "is set, but profile_type is %v", p.GetProfileType())
	}
	return nil
}

// ParseSeccomp reads a profile in the OCI format, strictly: an unknown key is an error, for a misspelt one (say "syscals")
// would otherwise leave a container less confined than its author thinks. Keys of docker's superset that need evaluation
// (archMap, includes, excludes) are unknown too. Values are checked against the specification's.
func ParseSeccomp(profile []byte) (*specs.LinuxSeccomp, error) {
	if len(profile) > MaxSeccompProfile {
		return nil, fmt.Errorf("seccomp profile has more than %d bytes: %w", MaxSeccompProfile, errdefs.ErrInvalidArgument)
	}
	bad := func(format string, a ...any) (*specs.LinuxSeccomp, error) {
		return nil, fmt.Errorf("seccomp profile: %s: %w", fmt.Sprintf(format, a...), errdefs.ErrInvalidArgument)
	}
	var s specs.LinuxSeccomp
	d := json.NewDecoder(bytes.NewReader(profile))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return bad("%v", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return bad("something follows the JSON object")
	}
	if !slices.Contains(seccompActions, s.DefaultAction) {
		return bad("defaultAction %q is not known", s.DefaultAction)
	}
	for i, c := range s.Syscalls {
		if len(c.Names) == 0 || slices.Contains(c.Names, "") {
			return bad("syscalls[%d] has no name, or an empty one", i)
		}
		if !slices.Contains(seccompActions, c.Action) {
			return bad("syscalls[%d].action %q is not known", i, c.Action)
		}
		for j, a := range c.Args {
			if a.Index > 5 || !slices.Contains(seccompOperators, a.Op) {
				return bad("syscalls[%d].args[%d] has index %d and operator %q", i, j, a.Index, a.Op)
			}
		}
	}
	// A filter that asks a listener needs one, on a socket of whose path the author of the profile, not the pod, decides.
	if s.ListenerPath != "" && !path.IsAbs(s.ListenerPath) {
		return bad("listenerPath %q is not absolute", s.ListenerPath)
	}
	return &s, nil
}

// Values of the OCI specification (config-linux.md, "Seccomp").
var (
	seccompActions = []specs.LinuxSeccompAction{
		specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap, specs.ActErrno, specs.ActTrace, specs.ActAllow,
		specs.ActLog, specs.ActNotify,
	}
	seccompOperators = []specs.LinuxSeccompOperator{
		specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan,
		specs.OpMaskedEqual,
	}
)
