// SPDX-License-Identifier: Apache-2.0

// Package critest runs upstream's conformance suite, critest of kubernetes-sigs/cri-tools (v1.36 or newer), against a real daemon
// of this project, offline:
//
//	CRITEST=/path/to/critest make critest
//	CRITEST=/path/to/critest make critest FOCUS='image volume'
//
// The suite asks for its images by their public names (registry.k8s.io, gcr.io). They are made here, of Debian's plain busybox and
// of one small static Go program (guest), and served by a registry on loopback that the daemon finds through hosts.toml mirrors.
// The suite runs in one process, with WebSocket instead of SPDY for the streams, and with four processes at once.
//
// A run fails on any failed spec, and on any skipped spec that the list of exceptions does not name with its reason. An exception
// whose spec is not skipped any more fails the run as well: the list cannot rot.
//
// The binary does not come with the project. Without it the test is skipped; EMBEDCRI_REQUIRE=critest makes that a failure. The
// ginkgo program, which the parallel run needs, is built on demand in the version that critest was built with.
package critest
