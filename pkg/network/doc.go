// SPDX-License-Identifier: Apache-2.0

// Package network attaches pods to the node's networks by CNI plug-ins
// (https://www.cni.dev/docs/spec/), and says whether that would work.
//
// # An attachment is data
//
//	Plan    -> an Attachment: what ADD will be told, to the last byte of configuration
//	           (the caller records it)
//	Attach  -> ADD; fills in the results
//	           (the caller records it again)
//	Detach  -> DEL with the very same, until it succeeds
//
// This order is the crash safety: whatever a plug-in may have made is written down before, and what
// is undone is what was done, though the node's configuration be another by then. The package
// itself remembers no pod. An ADD that fails is undone at once, by DEL on a context of its own.
//
// # libcni, not go-cni
//
// go-cni keeps one set of networks, loads it itself and passes it to ADD and DEL alike: there is no
// way to run DEL with yesterday's configuration, to use the GC verb, or to learn which plug-in
// failed. libcni takes the configuration as an argument. It also lets us run the plug-ins ourselves
// (exec.go): a plug-in that does not end within Options.Timeout is killed with its process group,
// is named in the error with what it wrote to stderr, and dies with the daemon, so that no ADD of
// the past can overtake a DEL. The loopback plug-in is not run at all: internal/namespace brings lo
// up.
//
// # Which networks
//
// The lexicographically first usable files of Options.ConfDir, one by default. The directory is
// watched, and so is what leads there, since installers like to remove and re-create it; a slow
// poll finds what notifications miss. If it holds no configuration file at all, the built-in
// [Bridge] network is used, where enabled. A broken file never makes pods fall back to that.
//
// # Concurrency
//
// At most Options.MaxParallel pods are attached or detached at a time. Calls for one attachment
// must not overlap; the pod's lock sees to that. The configuration is an immutable value behind an
// atomic pointer, the health a value behind a mutex that is never held across a call; Status never
// waits. Two goroutines, watch and watchHealth, run from Open to Close.
package network
