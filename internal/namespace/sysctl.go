// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// sysctl is the name of a kernel parameter as a path below /proc/sys.
type sysctl string

// parseSysctl reads a name the way sysctl(8) and the kubelet do: the first separator says which it
// is. After a dot, dots separate and a slash stands for a dot within a part
// ("net.ipv4.conf.eth0/100.rp_filter" is about eth0.100); after a slash it is a path already.
func parseSysctl(name string) (sysctl, error) {
	path := name
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		path = strings.Map(func(r rune) rune {
			switch r {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return r
		}, name)
	}
	// The name must not leave /proc/sys, nor come in two spellings.
	for _, part := range strings.Split(path, "/") {
		if part == "" || part == "." || part == ".." || strings.ContainsRune(part, 0) {
			return "", fmt.Errorf("sysctl %q is not a name: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	return sysctl(path), nil
}

// kind is the sort of namespace that the parameter belongs to; ok is false if it has none, so that
// setting it would change the host. The list is the kubelet's (pkg/kubelet/sysctl/namespace.go),
// and so are the prefixes without a dot.
func (s sysctl) kind() (k kind, ok bool) {
	n := string(s)
	switch {
	case strings.HasPrefix(n, "net/"):
		return kindNet, true
	case n == "kernel/sem",
		strings.HasPrefix(n, "kernel/shm"),
		strings.HasPrefix(n, "kernel/msg"),
		strings.HasPrefix(n, "fs/mqueue/"):
		return kindIPC, true
	}
	return kind{}, false
}

// perInterface reports whether the parameter is that of one network interface which a new namespace
// does not have yet.
func (s sysctl) perInterface() bool {
	p := strings.Split(string(s), "/")
	if len(p) < 5 || p[0] != "net" || (p[1] != "ipv4" && p[1] != "ipv6") || (p[2] != "conf" && p[2] != "neigh") {
		return false
	}
	return p[3] != "all" && p[3] != "default" && p[3] != "lo"
}

// ValidateSysctls says whether a pod may have these sysctls: each must belong to a namespace
// (net.*, kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.*) which the pod does not share with the
// host. The error names the sysctl and is ErrInvalidArgument. Whether the kernel knows the name and
// likes the value only [Create] can tell.
func ValidateSysctls(sysctls map[string]string, hostNet, hostIPC bool) error {
	for _, name := range slices.Sorted(maps.Keys(sysctls)) {
		s, err := parseSysctl(name)
		if err != nil {
			return err
		}
		k, ok := s.kind()
		switch {
		case !ok:
			return fmt.Errorf("sysctl %q is not namespaced, it would change the host: %w", name, errdefs.ErrInvalidArgument)
		case k == kindNet && hostNet:
			return fmt.Errorf("sysctl %q needs a network namespace of the pod's own, and the pod uses the host's: %w", name, errdefs.ErrInvalidArgument)
		case k == kindIPC && hostIPC:
			return fmt.Errorf("sysctl %q needs an IPC namespace of the pod's own, and the pod uses the host's: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// SetInterfaceSysctls writes those of the sysctls that belong to one network interface
// ("net.ipv4.conf.eth0.rp_filter"), in the network namespace pinned at path. [Create] leaves them
// out, since the interface comes with CNI's ADD: the caller runs this after it. Without any such
// sysctl nothing is done.
func SetInterfaceSysctls(path string, sysctls map[string]string) error {
	pick := selectSysctls(sysctls, func(s sysctl) bool { return s.perInterface() })
	if len(pick) == 0 {
		return nil
	}
	return Do(path, func() error { return writeSysctls(pick) })
}

func (s Spec) netSysctls() map[sysctl]string {
	out := map[sysctl]string{}
	if s.UnprivilegedPorts {
		out["net/ipv4/ip_unprivileged_port_start"] = "0"
	}
	if s.Ping {
		// All groups there can be. The ids are those of the writer's user namespace
		// (net/ipv4/sysctl_net_ipv4.c: ipv4_ping_group_range), and the writer is the host's root,
		// so this covers the ids of a pod's user namespace too.
		out["net/ipv4/ping_group_range"] = "0 2147483647"
	}
	maps.Copy(out, selectSysctls(s.Sysctls, func(n sysctl) bool {
		k, _ := n.kind()
		return k == kindNet && !n.perInterface()
	}))
	return out
}

func (s Spec) ipcSysctls() map[sysctl]string {
	return selectSysctls(s.Sysctls, func(n sysctl) bool {
		k, _ := n.kind()
		return k == kindIPC
	})
}

func selectSysctls(sysctls map[string]string, keep func(sysctl) bool) map[sysctl]string {
	out := make(map[sysctl]string, len(sysctls))
	for name, value := range sysctls {
		if s, err := parseSysctl(name); err == nil && keep(s) {
			out[s] = value
		}
	}
	return out
}

// writeSysctls writes to the namespaces of the calling thread: /proc/sys looks up net, IPC and
// mqueue parameters in the namespaces of whoever opens the file (fs/proc/proc_sysctl.c:
// set_lookup), whatever mount of proc it is. The order is that of the names, so that an outcome
// does not depend on chance.
func writeSysctls(sysctls map[sysctl]string) error {
	for _, s := range slices.Sorted(maps.Keys(sysctls)) {
		if err := s.write(sysctls[s]); err != nil {
			return err
		}
	}
	return nil
}

func (s sysctl) write(value string) error {
	name := strings.ReplaceAll(string(s), "/", ".")
	// No O_CREATE, no O_TRUNC: it is there or the kernel does not have it, in this kind of
	// namespace at least.
	f, err := os.OpenFile(filepath.Join("/proc/sys", string(s)), os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sysctl %s does not exist in a pod's namespace: %w", name, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return fmt.Errorf("sysctl %s: %w", name, err)
	}
	defer f.Close()
	_, err = f.WriteString(value)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ERANGE) {
		return fmt.Errorf("sysctl %s refuses the value %q: %w", name, value, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return fmt.Errorf("sysctl %s = %q: %w", name, value, err)
	}
	return nil
}
