// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// x32Bit marks a system call of the x32 ABI (__X32_SYSCALL_BIT, arch/x86/include/uapi/asm/unistd.h).
const x32Bit = 0x40000000

// noX32 tells whether the kernel has no x32 system calls: it was built without them (CONFIG_X86_X32_ABI), or booted without them as
// Debian's is (syscall.x32). It asks by making one, and does not if a seccomp filter might end this process for that.
func noX32() bool {
	runtime.LockOSThread() // filters are a thread's
	defer runtime.UnlockOSThread()
	if mode, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0); err != nil && err != unix.EINVAL || mode != 0 { // EINVAL: no seccomp
		return false
	}
	_, _, errno := unix.RawSyscall(x32Bit|unix.SYS_GETPID, 0, 0, 0)
	return errno == unix.ENOSYS
}
