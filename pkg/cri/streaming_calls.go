// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/pkg/task"
)

// Exec, Attach and PortForward only prepare: they check what can be checked while an error still reaches the client as a gRPC
// code, and return a URL (stream_server.go). What holds then may have changed when the client comes, and is looked at again.

// Exec prepares a command that a client is connected to.
func (s *Server) Exec(_ context.Context, r *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	if err := first(validCommand(r.GetCmd()), validStreams(r)); err != nil {
		return nil, err
	}
	id, err := s.running(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	url, err := s.streaming.offer(session{kind: execSession, id: id, cmd: r.GetCmd(), opts: streamsOf(r)})
	return &runtimeapi.ExecResponse{Url: url}, err
}

// Attach prepares a connection to a container's own streams. The tty of the request is that of the protocol only: whether there
// is a terminal was decided when the container was created.
func (s *Server) Attach(_ context.Context, r *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	if err := validStreams(r); err != nil {
		return nil, err
	}
	id, err := s.running(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	url, err := s.streaming.offer(session{kind: attachSession, id: id, opts: streamsOf(r)})
	return &runtimeapi.AttachResponse{Url: url}, err
}

// PortForward prepares connections to ports of a pod. Only WebSocket clients go by the ports in the request; SPDY ones name a port
// with each stream.
func (s *Server) PortForward(_ context.Context, r *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	for i, port := range r.GetPort() {
		if port < 1 || port > 65535 {
			return nil, invalid(fmt.Sprintf("port[%d]", i), "%d is not a port", port)
		}
	}
	p, err := s.pod(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if !p.Status().Ready {
		return nil, fmt.Errorf("pod %s is not ready: %w", p.ID(), errdefs.ErrFailedPrecondition)
	}
	url, err := s.streaming.offer(session{kind: portForwardSession, id: p.ID(), ports: r.GetPort()})
	return &runtimeapi.PortForwardResponse{Url: url}, err
}

// running returns the full id of a container that a client can be connected to.
func (s *Server) running(id string) (string, error) {
	c, err := s.container(id)
	if err != nil {
		return "", err
	}
	switch st := c.Status(); {
	case st.State != task.Running:
		return "", fmt.Errorf("container %s is %s, not running: %w", c.ID(), st.State, errdefs.ErrFailedPrecondition)
	case st.Paused:
		return "", fmt.Errorf("container %s is paused: %w", c.ID(), errdefs.ErrFailedPrecondition)
	}
	return c.ID(), nil
}

// streamsRequest is what ExecRequest and AttachRequest have in common.
type streamsRequest interface {
	GetStdin() bool
	GetStdout() bool
	GetStderr() bool
	GetTty() bool
}

func validStreams(r streamsRequest) error {
	switch {
	case !r.GetStdin() && !r.GetStdout() && !r.GetStderr():
		return invalid("stdin", "one of stdin, stdout and stderr must be true")
	case r.GetTty() && r.GetStderr():
		return invalid("stderr", "must be false with tty: a terminal has one output")
	}
	return nil
}
