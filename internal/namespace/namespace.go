// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Spec says which namespaces a pod gets and what they look like from the start.
type Spec struct {
	// Net, IPC and UTS each ask for a namespace of the pod's own; without, the pod uses the host's.
	Net, IPC, UTS bool
	// UserNS, if not nil, asks for a user namespace that owns all the others.
	UserNS *UserNS

	// Hostname is set in the pod's UTS namespace, if it has one and Hostname is not empty. At most
	// 64 bytes (HOST_NAME_MAX).
	Hostname string
	// Sysctls are written inside the new namespaces; see [ValidateSysctls] for which there can be
	// and [SetInterfaceSysctls] for those that must wait.
	Sysctls map[string]string
	// UnprivilegedPorts lets any process of the pod bind ports below 1024, and Ping lets any of its
	// groups open ICMP echo sockets, both without a capability. They are sysctls of the network
	// namespace; Sysctls has precedence.
	UnprivilegedPorts, Ping bool
}

// Paths are the pins of a pod's namespaces; empty where the pod uses the host's.
type Paths struct {
	User string `json:"user,omitempty"`
	Net  string `json:"net,omitempty"`
	IPC  string `json:"ipc,omitempty"`
	UTS  string `json:"uts,omitempty"`
}

// kinds lists what s asks for, without the user namespace.
func (s Spec) kinds() []kind {
	var ks []kind
	for _, w := range []struct {
		want bool
		kind kind
	}{{s.Net, kindNet}, {s.IPC, kindIPC}, {s.UTS, kindUTS}} {
		if w.want {
			ks = append(ks, w.kind)
		}
	}
	return ks
}

func (s Spec) validate() error {
	if len(s.Hostname) > 64 {
		return fmt.Errorf("hostname %q is longer than 64 bytes: %w", s.Hostname, errdefs.ErrInvalidArgument)
	}
	if s.UserNS != nil {
		if err := s.UserNS.validate(); err != nil {
			return err
		}
	}
	return ValidateSysctls(s.Sysctls, !s.Net, !s.IPC)
}

// Create makes the namespaces of s and pins them in dir, which it makes and which must not exist.
// dir's parent should have been through [Prepare]. The caller records dir first: if the daemon dies
// half-way, [Delete] of dir is the way back. On an error nothing is left.
//
// Errors are ErrInvalidArgument for what is wrong with s, ErrAlreadyExists for dir, or the
// kernel's.
func Create(dir string, s Spec) (_ Paths, err error) {
	if err := s.validate(); err != nil {
		return Paths{}, err
	}
	if err := os.Mkdir(dir, 0o711); errors.Is(err, fs.ErrExist) {
		return Paths{}, fmt.Errorf("namespaces in %s: %w", dir, errdefs.ErrAlreadyExists)
	} else if err != nil {
		return Paths{}, fmt.Errorf("create namespaces: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("create namespaces: %w", errors.Join(err, Delete(dir)))
		}
	}()

	if s.UserNS != nil {
		err = createOwned(dir, s)
	} else {
		err = create(dir, s)
	}
	if err != nil {
		return Paths{}, err
	}
	return Load(dir), nil
}

// create makes namespaces that the host's user namespace owns.
func create(dir string, s Spec) error {
	ks := s.kinds()
	if len(ks) == 0 {
		return nil
	}
	return onLostThread(func() error {
		if err := unix.Unshare(flags(ks)); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err := s.configure(nil); err != nil {
			return err
		}
		for _, k := range ks {
			if err := k.pin("/proc/thread-self/ns/"+k.name, dir); err != nil {
				return err
			}
		}
		return nil
	})
}

// configure sets up the namespaces that the calling thread is in. It runs with the ids of the
// host's root; beforeIPC, if not nil, is called once all but the IPC sysctls are done.
func (s Spec) configure(beforeIPC func() error) error {
	if s.UTS && s.Hostname != "" {
		if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
			return fmt.Errorf("set hostname %q: %w", s.Hostname, err)
		}
	}
	if s.Net {
		if err := loopbackUp(); err != nil {
			return err
		}
		if err := writeSysctls(s.netSysctls()); err != nil {
			return err
		}
	}
	ipc := s.ipcSysctls()
	if len(ipc) == 0 {
		return nil
	}
	if beforeIPC != nil {
		if err := beforeIPC(); err != nil {
			return err
		}
	}
	return writeSysctls(ipc)
}

// loopbackUp brings lo up in the calling thread's network namespace; its addresses, 127.0.0.1 and
// ::1, the kernel adds by itself. netdevice(7)'s ioctl needs three system calls where rtnetlink
// would need a message format.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, lo); err != nil {
		return fmt.Errorf("read flags of lo: %w", err)
	}
	lo.SetUint16(lo.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return nil
}

// Load returns the living namespaces pinned in dir, be it made by this daemon or by one before it.
// What is not pinned (any more: a reboot) is empty.
func Load(dir string) Paths {
	at := func(k kind) string {
		if p := filepath.Join(dir, k.name); Pinned(p) {
			return p
		}
		return ""
	}
	return Paths{User: at(kindUser), Net: at(kindNet), IPC: at(kindIPC), UTS: at(kindUTS)}
}

// Delete removes the pins in dir, in whatever state they are, and dir. The namespaces themselves go
// when nothing uses them any more. Idempotent.
func Delete(dir string) error {
	var errs []error
	for _, k := range kinds() {
		errs = append(errs, k.unpin(dir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("delete namespaces: %w", err)
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete namespaces: %w", err)
	}
	return nil
}

func flags(ks []kind) int {
	f := 0
	for _, k := range ks {
		f |= k.flag
	}
	return f
}
