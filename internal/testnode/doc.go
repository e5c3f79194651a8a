// SPDX-License-Identifier: Apache-2.0

// Package testnode runs real embedcri daemons for tests, several side by side on one machine: each has its own directories, socket,
// bpffs directory, cgroup parent, bridge and subnet. It drives them with the kubelet's own client (k8s.io/cri-client), and when a
// test ends it proves that nothing is left: no process, mount, namespace, cgroup, interface or pin.
package testnode
