// SPDX-License-Identifier: Apache-2.0

package exitbpf

// One object for all little-endian machines: CO-RE, no pt_regs, nothing that
// differs between amd64 and arm64. -mcpu=v3: atomic compare-and-exchange.
//
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target bpfel -no-global-types exit ../../bpf/exit.bpf.c -- -O2 -mcpu=v3 -Wall -Werror
