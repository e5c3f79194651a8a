// SPDX-License-Identifier: Apache-2.0

// Package runc drives an OCI runtime as a program: runc, or any with the same command line (crun, youki). It is the only package
// that knows of containerd/go-runc, and the only one that reads the runtime's messages.
//
// No call keeps a process: create and exec run detached, so that the runtime leaves as soon as the container's process is ready
// and this daemon, a child subreaper, becomes its parent. Two calls need no process at all in the plain case, see native.go.
package runc
