// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"errors"

	"github.com/cilium/ebpf"
)

var errNoBPF = errors.New("no BPF in this test")

// WithoutBPF makes Open find no BPF.
func WithoutBPF(o Options) Options {
	o.object = func() (*ebpf.CollectionSpec, error) { return nil, errNoBPF }
	return o
}
