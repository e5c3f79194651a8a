// SPDX-License-Identifier: Apache-2.0

// Package pidfd wraps the few system calls there are on a pidfd.
//
// A pidfd names one process for as long as it is open, whatever becomes of the
// pid number: signals and waits through it can never hit a stranger. See
// pidfd_open(2), pidfd_send_signal(2), waitid(2) and, for Info,
// include/uapi/linux/pidfd.h.
package pidfd

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrRunning says that the process has no status to collect yet: it runs, or a
// tracer has to let go of it first.
var ErrRunning = errors.New("process has no status to collect yet")

// Open returns a close-on-exec pidfd of the process pid. The process may be a
// zombie; ESRCH means it has been reaped (or never was), EINVAL that pid is a
// thread that does not lead its group (ENOENT since Linux 6.15).
func Open(pid int) (int, error) {
	for {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// Signal sends sig to the process; 0 only asks whether it is there. A zombie
// still is: ESRCH means reaped.
func Signal(fd int, sig unix.Signal) error {
	for {
		err := unix.PidfdSendSignal(fd, sig, nil, 0)
		if err != unix.EINTR {
			return err
		}
	}
}

// Peek returns the status of a dead child and leaves it to be reaped. Errors
// are those of Reap.
func Peek(fd int) (unix.WaitStatus, error) { return wait(fd, unix.WNOWAIT) }

// Reap collects the status of a dead child. ErrRunning: nothing to collect now;
// ECHILD: not a child of this process, or collected already. Never blocks.
func Reap(fd int) (unix.WaitStatus, error) { return wait(fd, 0) }

// childInfo is the SIGCHLD part of siginfo_t on 64-bit Linux, which x/sys leaves opaque.
type childInfo struct {
	Signo, Errno, Code, _ int32
	Pid                   int32
	UID                   uint32
	Status                int32
	_                     [100]byte
}

// si_code of SIGCHLD, include/uapi/asm-generic/siginfo.h.
const (
	cldExited = 1
	cldKilled = 2
	cldDumped = 3
)

func wait(fd, flags int) (unix.WaitStatus, error) {
	var info childInfo
	for {
		// WALL: whatever its exit signal is (clone with another than SIGCHLD).
		err := unix.Waitid(unix.P_PIDFD, fd, (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOHANG|unix.WALL|flags, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, err
		}
		break
	}
	if info.Pid == 0 { // WNOHANG with nothing to report
		return 0, ErrRunning
	}
	return statusOf(info.Code, info.Status)
}

// statusOf puts back together what kernel/exit.c, wait_task_zombie() took apart for siginfo.
func statusOf(code, status int32) (unix.WaitStatus, error) {
	switch code {
	case cldExited:
		return unix.WaitStatus(status&0xff) << 8, nil
	case cldKilled:
		return unix.WaitStatus(status & 0x7f), nil
	case cldDumped:
		return unix.WaitStatus(status&0x7f) | 0x80, nil
	}
	return 0, unix.EINVAL
}

// ExitInfo returns the status of a reaped process, whoever reaped it, and the
// id of the cgroup it was in. The kernel keeps both for open pidfds since 6.15.
//
// Beware: it is the exit code of the first thread (fs/pidfs.c, pidfs_exit()),
// not the process' as wait(2) means it. They differ if the first thread left
// before the others.
// ErrRunning: it has not been reaped yet. ENOTTY or EINVAL: the kernel is older.
func ExitInfo(fd int) (unix.WaitStatus, uint64, error) {
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT | unix.PIDFD_INFO_CGROUPID}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.PIDFD_GET_INFO, uintptr(unsafe.Pointer(&info)))
	switch {
	case errno != 0:
		return 0, 0, errno
	case info.Mask&unix.PIDFD_INFO_EXIT != 0:
		return unix.WaitStatus(info.Exit_code), info.Cgroupid, nil
	}
	return 0, 0, ErrRunning
}

// HasExitInfo reports whether this kernel knows ExitInfo. One that does not
// leaves the bit clear in its answer, as for a process not reaped yet, so the
// kernel's release has to tell.
func HasExitInfo() bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	return releaseAtLeast(unix.ByteSliceToString(u.Release[:]), 6, 15)
}

func releaseAtLeast(release string, major, minor int) bool {
	n, at := [2]int{}, 0
	for i := 0; i < len(release) && at < 2; i++ {
		switch c := release[i]; {
		case c >= '0' && c <= '9':
			n[at] = n[at]*10 + int(c-'0')
		case c == '.':
			at++
		default:
			at = 2
		}
	}
	return n[0] > major || n[0] == major && n[1] >= minor
}
