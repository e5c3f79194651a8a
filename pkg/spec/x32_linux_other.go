// SPDX-License-Identifier: Apache-2.0

//go:build linux && !amd64

package spec

func noX32() bool { return true }
