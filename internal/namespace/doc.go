// SPDX-License-Identifier: Apache-2.0

// Package namespace makes, pins and enters the namespaces of a pod.
//
// A pod has no process of its own: its network, IPC, UTS and user namespaces are kept alive by bind
// mounts of their nsfs files ("pins") in a directory of the pod, and by nothing else. They survive
// the daemon and go when [Delete] removes the pins and the last container has left.
//
// # How they come to be
//
// unshare(2) works on the calling thread alone for net, IPC and UTS, so [Create] does it on an OS
// thread of its own, sets the pod's hostname and sysctls, brings lo up, bind mounts
// /proc/thread-self/ns/* over empty files, and then lets that thread die: it is never handed back
// to the Go scheduler. No program is executed and no process is made; all of it takes about a
// millisecond, nearly all of which the kernel spends on the network namespace.
//
// A user namespace cannot be unshared by a process with several threads (EINVAL,
// user_namespaces(7)), so for [Spec].UserNS the runtime forks a child that dies before it executes
// its first instruction: see user.go. The other namespaces are then made inside the user namespace,
// which thereby owns them: without that the pod's root would have no power over its own network.
//
// # Threads
//
// Code that runs in another namespace runs on a locked thread. Whatever cannot be undone for
// certain ends with that thread: a goroutine which returns while locked takes its thread along. The
// process's main thread is never used: it cannot end (the Go runtime parks it for ever instead),
// and /proc/self/ns, which is what the rest of the world takes for "the daemon's namespaces", is
// that of the main thread.
//
// # Propagation
//
// CNI plug-ins, other agents and containers with mounted host directories must see the pins, so
// they have to live on a shared mount. [Prepare] makes their common parent one.
package namespace
