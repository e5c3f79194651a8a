// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// rlimits are the resources of getrlimit(2), as they are written in a configuration.
var rlimits = map[string]int{
	"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA, "fsize": unix.RLIMIT_FSIZE,
	"locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK, "msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE,
	"nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO,
	"rttime": unix.RLIMIT_RTTIME, "sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

const rlimitPrefix = "RLIMIT_"

// RlimitNumber is the kernel's number of a resource by its OCI name, such as RLIMIT_NOFILE.
func RlimitNumber(name string) (int, error) {
	n, ok := rlimits[strings.ToLower(strings.TrimPrefix(name, rlimitPrefix))]
	if !ok {
		return 0, fmt.Errorf("rlimit %q is not known: %w", name, errdefs.ErrInvalidArgument)
	}
	return n, nil
}

// ParseRlimit reads a resource limit as a handler's configuration has it: nofile=1024:524288 (soft and hard), nofile=4096 (both).
// -1 is no limit.
func ParseRlimit(s string) (specs.POSIXRlimit, error) {
	bad := func(format string, a ...any) (specs.POSIXRlimit, error) {
		return specs.POSIXRlimit{}, fmt.Errorf("rlimit %q: %s: %w", s, fmt.Sprintf(format, a...), errdefs.ErrInvalidArgument)
	}
	name, values, ok := strings.Cut(s, "=")
	if _, known := rlimits[name]; !ok || !known {
		return bad("is not name=soft:hard with a name of %v", slices.Sorted(maps.Keys(rlimits)))
	}
	softWord, hardWord, both := strings.Cut(values, ":")
	if !both {
		hardWord = softWord
	}
	soft, ok := rlimitValue(softWord)
	hard, ok2 := rlimitValue(hardWord)
	switch {
	case !ok || !ok2:
		return bad("its values are numbers from 0, or -1")
	case soft > hard:
		return bad("its soft limit is above its hard limit")
	}
	return specs.POSIXRlimit{Type: rlimitPrefix + strings.ToUpper(name), Soft: soft, Hard: hard}, nil
}

func rlimitValue(s string) (uint64, bool) {
	if s == "-1" {
		return math.MaxUint64, true
	}
	v, err := strconv.ParseUint(s, 10, 63)
	return v, err == nil
}

// rlimits sets the handler's resource limits. What it does not list, the process inherits from the daemon. Without
// CAP_SYS_RESOURCE nobody may set limits of a process of another user namespace (prlimit(2)); there they are left out.
func (b *builder) rlimits() error {
	own := slices.ContainsFunc(b.g.Config.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace })
	if own && !slices.Contains(b.in.Node.Capabilities, "CAP_SYS_RESOURCE") {
		for _, r := range b.in.Handler.Rlimits {
			b.clamp("rlimit "+r.Type, fmt.Sprintf("%d:%d", r.Soft, r.Hard), "", "the daemon lacks CAP_SYS_RESOURCE, and the pod has a user namespace")
		}
		return nil
	}
	for _, r := range b.in.Handler.Rlimits {
		if r.Soft > r.Hard {
			return fmt.Errorf("rlimit %s of the runtime handler: soft limit %d is above hard limit %d: %w", r.Type, r.Soft, r.Hard, errdefs.ErrInvalidArgument)
		}
		b.g.AddProcessRlimits(r.Type, r.Hard, r.Soft)
	}
	return nil
}
