// SPDX-License-Identifier: Apache-2.0

//go:build linux && !amd64

package spec

// noX32: x32 is an ABI of x86.
func noX32() bool { return true }
