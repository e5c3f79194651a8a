// SPDX-License-Identifier: Apache-2.0

package task

import (
	"github.com/embedcri/embedcri/pkg/exitbpf"
)

// TracerExits makes a tracer an Exits: it only widens the type of what Watch returns.
func TracerExits(t *exitbpf.Tracer) Exits { return tracerExits{t} }

type tracerExits struct{ t *exitbpf.Tracer }

func (e tracerExits) Watch(k exitbpf.Key, pid int) (Watch, error) {
	w, err := e.t.Watch(k, pid)
	if err != nil {
		return nil, err
	}
	return w, nil
}

func (e tracerExits) Forget(k exitbpf.Key) error { return e.t.Forget(k) }

var _ Watch = (*exitbpf.Watch)(nil)
