// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ExecSync runs a command in a container and waits for it. A time-out is DeadlineExceeded: the kubelet takes no other code for it.
func (s *Server) ExecSync(ctx context.Context, r *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	timeout, err := seconds("timeout", r.GetTimeout())
	if err != nil {
		return nil, err
	}
	if err := validCommand(r.GetCmd()); err != nil {
		return nil, err
	}
	c, err := s.container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	res, err := c.ExecSync(ctx, r.GetCmd(), timeout)
	if err != nil {
		return nil, err
	}
	stdout, stderr := fit(res.Stdout, res.Stderr, maxExecSyncOutput)
	return &runtimeapi.ExecSyncResponse{Stdout: stdout, Stderr: stderr, ExitCode: res.Code}, nil
}

// maxExecSyncOutput leaves room for the rest of the message. api.proto caps each stream at 16 MB, and the kubelet's client refuses
// a message of more than 16 MiB altogether: a probe that talks too much would fail for its length, whatever its exit code.
const maxExecSyncOutput = maxMessageSize - 1<<10

// fit cuts the end of two outputs so that both fit into max. What the shorter one does not need of its half goes to the longer.
func fit(a, b []byte, max int) ([]byte, []byte) {
	if len(a)+len(b) <= max {
		return a, b
	}
	half := max / 2
	switch {
	case len(a) <= half:
		return a, b[:max-len(a)]
	case len(b) <= half:
		return a[:max-len(b)], b
	default:
		return a[:half], b[:half]
	}
}
