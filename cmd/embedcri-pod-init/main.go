// SPDX-License-Identifier: Apache-2.0

// Command embedcri-pod-init is pid 1 of pods whose containers share a pid namespace. It holds the namespace, reaps the orphans of
// all containers, and ends on SIGTERM or SIGINT. It is static and imports next to nothing, as one runs for each such pod.
package main

import (
	"errors"
	"os"
	"os/signal"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

func main() {
	debug.SetGCPercent(-1) // it allocates nothing after this
	sigs := make(chan os.Signal, 16)
	signal.Notify(sigs, unix.SIGCHLD, unix.SIGTERM, unix.SIGINT)
	if os.Getpid() != 1 {
		println("embedcri-pod-init: to be run as pid 1 of a pod")
		os.Exit(2)
	}
	for sig := range sigs {
		if sig != unix.SIGCHLD {
			os.Exit(0)
		}
		reap()
	}
}

// reap takes every zombie: all children of pid 1 here are orphans, it starts none itself.
func reap() {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if pid <= 0 {
			return
		}
	}
}
