// SPDX-License-Identifier: Apache-2.0

// Package spec turns what Kubernetes asks for (a CRI container configuration, in a pod, from an image, on this node) into the
// OCI runtime specification of one container.
//
// # Pure core
//
// [Container], [ExecProcess], [Update], [Resources], [StopSignal], [CgroupsPath], [CDIDevices] and [ImageVolumes] are pure functions: no disk, no clock, no
// state, the same answer for the same input. Everything they must know about the world comes in as data ([Input], [Node]), so
// that each feature has a golden config.json and a hostile request can be tested without a machine to attack.
//
// What the world must be asked for is gathered by a few impure helpers, each in a file that ends in _linux.go, called by the
// daemon before Container, in this order:
//
//	DetectNode     once, at start: capabilities, LSMs, cgroups, oom_score_adj floor
//	LookupUser     per container: /etc/passwd and /etc/group of the image, size-capped, resolved inside the rootfs
//	CheckMounts    per container: host paths exist, symlinks resolved, propagation possible
//	FindDevices    per container: device nodes behind linux devices and directories of devices
//	ReadSeccomp    per container: the bytes of a Localhost profile
//	Levels.Init    per pod and container: SELinux labels (reserves an MCS level)
//	Container      the specification
//	CDI.Inject     per container: vendor edits from the node's CDI registry
//
// Handler.WithFeatures, pure again, completes the configuration of a runtime handler by what its OCI runtime can do.
//
// # One feature, one file
//
// Container walks a list of features; each lives in a file of its name (process.go, mounts.go, seccomp.go, …) and edits the
// specification that the ones before it left. A new feature is a new file and one line in that list. The reflection test
// (fields_test.go) fails when the CRI gains a field on which nobody has decided yet.
//
// # Errors
//
// What the client got wrong is errdefs.ErrInvalidArgument and names the field as api.proto spells it
// (linux.security_context.run_as_group). What the client may ask for but this node or handler cannot do is
// errdefs.ErrFailedPrecondition. Nothing is ignored in silence: a value that had to be bent (oom_score_adj below what the
// daemon may set, a default capability that the daemon itself lacks) is returned as a [Clamp].
package spec
