// SPDX-License-Identifier: Apache-2.0

// Package crictl runs every sub-command of crictl, the CRI's command line client (kubernetes-sigs/cri-tools, v1.36 or newer),
// against a real daemon. crictl does not come with the project: it is what CRICTL names, or what is on PATH. Without it the test is
// skipped; EMBEDCRI_REQUIRE=crictl makes that a failure. A sub-command that the test does not know fails it.
package crictl
