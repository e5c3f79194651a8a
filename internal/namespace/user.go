// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// IDMap maps Size ids from ContainerID on, as the pod sees them, to those from HostID on;
// user_namespaces(7).
type IDMap struct {
	ContainerID, HostID, Size uint32
}

// UserNS describes a pod's user namespace. Each map must be non-empty and map id 0: a pod without a
// root could not own its namespaces.
type UserNS struct {
	UID, GID []IDMap
}

// root is what id 0 of the pod is on the host.
func root(m []IDMap) (uint32, bool) {
	for _, e := range m {
		if e.ContainerID == 0 {
			return e.HostID, true
		}
	}
	return 0, false
}

func (u *UserNS) validate() error {
	for _, m := range []struct {
		name string
		ids  []IDMap
	}{{"uid", u.UID}, {"gid", u.GID}} {
		for _, e := range m.ids {
			// 2^32-1 is no id (INVALID_UID), neither in the pod nor on the host.
			if e.Size == 0 || uint64(e.ContainerID)+uint64(e.Size) > 1<<32-1 || uint64(e.HostID)+uint64(e.Size) > 1<<32-1 {
				return fmt.Errorf("user namespace: %s map %d:%d:%d is out of range: %w", m.name, e.ContainerID, e.HostID, e.Size, errdefs.ErrInvalidArgument)
			}
		}
		if _, ok := root(m.ids); !ok {
			return fmt.Errorf("user namespace: the %s map has no id 0: %w", m.name, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

func sysMap(m []IDMap) []syscall.SysProcIDMap {
	out := make([]syscall.SysProcIDMap, 0, len(m))
	for _, e := range m {
		out = append(out, syscall.SysProcIDMap{ContainerID: int(e.ContainerID), HostID: int(e.HostID), Size: int(e.Size)})
	}
	return out
}

// createOwned makes a user namespace and, inside it, the others of s.
//
// Two threads share the work. The first forks a child with CLONE_NEWUSER, which unshares the rest
// once its maps are written; unshared by a process of the new user namespace, they are owned by it.
// The child asks to be traced and then executes the daemon's own binary: a traced process stops at
// the end of execve(2), so not one instruction of that program runs, there is no helper to install,
// and the namespaces stand still while they are pinned. Then it is killed. The second thread enters
// the pins and configures them.
func createOwned(dir string, s Spec) error {
	uid, _ := root(s.UserNS.UID)
	if err := onLostThread(func() error { return pinChild(dir, s, int(uid)) }); err != nil {
		return err
	}
	return onLostThread(func() error {
		for _, k := range s.kinds() {
			if err := enter(k, dir); err != nil {
				return err
			}
		}
		// The host's root may set everything but IPC sysctls: those ask who the writer is, not what
		// it is capable of (ipc/ipc_sysctl.c: ipc_permissions).
		return s.configure(func() error { return setEUID(int(uid)) })
	})
}

func enter(k kind, dir string) error {
	f, err := os.Open(filepath.Join(dir, k.name))
	if err != nil {
		return fmt.Errorf("enter %s namespace: %w", k.name, err)
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), k.flag); err != nil {
		return fmt.Errorf("enter %s namespace: %w", k.name, err)
	}
	return nil
}

// pinChild runs on a thread that ends with it: the tracer of a process is a thread, and so is the
// parent whose death Pdeathsig reports. Should the daemon die here, the kernel kills the child.
func pinChild(dir string, s Spec, uid int) (err error) {
	// The namespace's creator is charged for it, and through it for all that the pod counts against
	// per-user limits on the host, such as inotify instances (kernel/ucount.c: inc_ucount walks up
	// the creators). As root, all pods would share the host root's 128 of them; as its own root on
	// the host, each pod has its own.
	if err := setEUID(uid); err != nil {
		return err
	}
	child, err := os.StartProcess("/proc/self/exe", []string{"embedcri-namespace"}, &os.ProcAttr{
		Dir: "/",
		Env: []string{},
		Sys: &syscall.SysProcAttr{
			Cloneflags:                 unix.CLONE_NEWUSER,
			Unshareflags:               uintptr(flags(s.kinds())),
			UidMappings:                sysMap(s.UserNS.UID),
			GidMappings:                sysMap(s.UserNS.GID),
			GidMappingsEnableSetgroups: true,
			Ptrace:                     true,
			Pdeathsig:                  unix.SIGKILL,
		},
	})
	if err != nil {
		return fmt.Errorf("start user namespace: %w", err)
	}
	defer func() {
		// Kill goes through the pidfd that os.Process holds: no pid can be mixed up.
		_ = child.Kill()
		if _, werr := child.Wait(); werr != nil && !errors.Is(werr, unix.ECHILD) {
			err = errors.Join(err, fmt.Errorf("reap user namespace's first process: %w", werr))
		}
	}()

	proc := "/proc/" + strconv.Itoa(child.Pid) + "/ns/"
	for _, k := range append([]kind{kindUser}, s.kinds()...) {
		if err := k.pin(proc+k.name, dir); err != nil {
			return err
		}
	}
	// The pid was the child's all along only if the child is still there: it is not reaped before
	// the function ends, but a killed one shows other namespaces, or none.
	if err := child.Signal(syscall.Signal(0)); err != nil {
		return fmt.Errorf("user namespace's first process died early: %w", err)
	}
	return nil
}

// setEUID changes the effective user of the calling thread alone and keeps its effective
// capabilities, which the kernel drops when root becomes somebody else (capabilities(7)). There is
// no way back here: the thread has to end. The syscall package's Setresuid would change all
// threads.
func setEUID(uid int) error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&hdr, &caps[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	const keep = ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(uid), keep); errno != 0 {
		return fmt.Errorf("become user %d: %w", uid, errno)
	}
	if err := unix.Capset(&hdr, &caps[0]); err != nil {
		return fmt.Errorf("keep capabilities: %w", err)
	}
	return nil
}
