// SPDX-License-Identifier: Apache-2.0

// Package sandbox owns pods and their containers as Kubernetes sees them: names, records, the order in which the parts below are
// made and unmade, and recovery. A pod is an aggregate: there is one live Pod for an id, in one map, and its containers are
// reached through it.
//
// A pod has no process of its own. What a pause process holds elsewhere, namespaces and /dev/shm, are mounts here; only a pod
// whose containers share a pid namespace needs somebody to be its pid 1, and gets a small init (podinit.go).
//
//	Creating ──► Ready ──► Stopping ──► NotReady ──► Removing ──► (gone)
//	    └──────────────────────┴─ after a failure: unmade at once; what could not be unmade stays, as NotReady
//
// Only Ready is READY in the CRI. Each step of making a pod is recorded before it is made; each step of unmaking is idempotent,
// so that a repeated Stop just goes on.
//
// # Repeated calls
//
// The kubelet repeats a call that has timed out. Run and CreateContainer then join the operation that is under way, or find its
// result, and return the same id (joins.go). Operations run on the manager's context, not on the caller's, who only waits.
// A pod that is being made is not listed as long as somebody waits for it. When all have given up it is, as not ready: whoever
// wants it repeats the call, whoever does not stops it, which ends its making at once.
//
// # Locks
//
// Manager.mu guards the maps and is never held across a call to anything. Pod.op serialises stop and remove of a pod, and is
// taken with a context. Pod.mu guards the pod's state and set of containers; it is held for memory and one small file. Order:
// Pod.op, then task locks, then Pod.mu, then Manager.mu. Status and lists read snapshots and take no operation's lock.
package sandbox
