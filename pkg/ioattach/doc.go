// SPDX-License-Identifier: Apache-2.0

// Package ioattach owns the standard streams of processes.
package ioattach
