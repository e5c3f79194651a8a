// SPDX-License-Identifier: Apache-2.0

// Command bench measures container runtimes side by side through the CRI: the same client, registry, images, OCI runtime and CNI
// plug-ins, in one run, taking turns (A B A B), so that what disturbs the machine disturbs all of them. It prints a table and
// writes JSON; see docs/performance.md for results.
//
// embedcri (from bin/) and containerd (from bin/peers, by `make peers`) are started by it, each with directories, a cgroup parent
// and a bridge of its own, ended by pid, and removed without a trace. Any other runtime that is running already can join:
//
//	go run ./test/bench -endpoint crio=unix:///run/crio/crio.sock
//
// The measures are grouped (-list lists them, -run picks some): each file measure_*.go is one group. What a runtime costs is
// counted without knowing it: its daemon is the process at the other end of the socket; its other processes are those whose
// command line names its directories, or a pod or container of this run, and those in the cgroups of its pods. The payload, which
// marks itself by an environment variable, is not counted.
package main
