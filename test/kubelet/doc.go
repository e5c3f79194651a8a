// SPDX-License-Identifier: Apache-2.0

// Package kubelet tests the daemon under the real kubelet, standalone, with static pods:
//
//	make kubelet-test
//
// The kubelet is built from k8s.io/kubernetes by the module in build/, so that what it needs stays out of the daemon's go.mod. It
// is made to leave the machine as it is: its cgroups are below the node's own, it runs in a mount namespace where the kernel
// settings that it would change, /var/lib and /var/log are its own, it makes no iptables chain and needs no API server.
//
// Without bin/tools/kubelet ($EMBEDCRI_KUBELET) the tests are skipped; EMBEDCRI_REQUIRE=kubelet makes that a failure.
package kubelet
