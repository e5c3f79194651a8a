// SPDX-License-Identifier: Apache-2.0

// Package task owns the processes of containers: it has an OCI runtime create and start them, hears of their exits from the exit
// tracer, stops them, runs further processes in them (execs) and has the runtime clean up behind them. It speaks OCI and knows
// nothing of Kubernetes.
//
// There is no process between the daemon and a container. What containerd's shim and CRI-O's conmon do is done here, once for
// all containers; what has to outlive the daemon lives in the kernel (the pinned tracer, FIFOs) and in the store.
//
// # States
//
// next in state.go is the whole truth; it has no I/O and no clock.
//
//	            created            start            started
//	Creating ──────────► Created ────────► Starting ────────► Running
//	   │ failed, exited     │ exited          │ failed, exited   │ exited
//	   ▼                    ▼                 ▼                  ▼
//	 (gone)               Exited ◄──────────Exited◄─────────── Exited ──remove──► Removing ──► (gone)
//
// Only an exit that the tracer reports makes a container Exited (or a start that failed before there was a program); sending a
// signal is not an event. The first exit wins. An exit may overtake started.
//
// # Restart is start
//
// Create and Load end in the same function, follow (follow.go): from there on nothing tells a task whose process is new from one
// whose process outlived the previous daemon.
//
// # Locks
//
// Each task has two. op serialises operations that run the OCI runtime (create, start, update, delete); it is taken with a
// context, so that a caller can give up. mu guards the state; it is held for memory and for one small file, never across the
// runtime, a FIFO or a client. The exit path takes only mu: nothing slow delays an exit. Order: op before mu, never two tasks at
// once. Status reads an atomic snapshot and takes no lock.
//
// # Who reaps
//
// The daemon is a child subreaper: a container's init, whose parent runc has left, becomes the daemon's child. The tracer reaps
// what it watches. Reaper (reaper.go) reaps the other orphans that land here, and never a process that os/exec waits for.
package task
