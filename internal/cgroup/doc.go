// SPDX-License-Identifier: Apache-2.0

// Package cgroup finds the cgroup of a container from its OCI path and acts on all its processes: kill, freeze, thaw. It knows
// cgroup v1, v2 and the hybrid of both, where v1 has the controllers. Limits are the runtime's business, numbers pkg/stats'.
package cgroup
