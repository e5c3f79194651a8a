// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/signal"
	"unsafe"

	"golang.org/x/sys/unix"
)

// resetSignals makes containers begin with default signals. A signal that is ignored stays so over execve(2), down to the user's
// program: SIGHUP if the daemon was started by nohup, 32 and 33 by anything that uses glibc's posix_spawn (make does). One that is
// caught is reset by execve, so catching SIGHUP is enough; of the two others Go's os/signal knows nothing.
func resetSignals() {
	ignored := make(chan os.Signal, 1)
	signal.Notify(ignored, unix.SIGHUP) // SIGINT ends the daemon and SIGQUIT shows its stacks: both are caught
	go func() {
		for range ignored { // nothing to do: the daemon has no terminal and reloads nothing
		}
	}()
	for _, sig := range []uintptr{32, 33} {
		var action [64]byte // the kernel's struct sigaction, with SIG_DFL
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
	}
}
