// SPDX-License-Identifier: Apache-2.0

// Package conformance tests what the comments of the CRI (k8s.io/cri-api, pkg/apis/runtime/v1) promise and what the kubelet counts
// on, through the kubelet's own client and on a real daemon: one file for each area of the contract. It is what CI has where there
// is no critest. What test/integration proves in depth (exits, streams, statistics, events, networks) is not repeated here.
package conformance
