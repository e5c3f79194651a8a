// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/embedcri/embedcri/pkg/sandbox"
)

// GetContainerEvents sends what happens to containers and pods until the client leaves. It never ends by itself while the daemon
// serves, and never without an error: the kubelet gives up events for its whole life after five ends of the stream, and takes an
// EOF for one (pkg/kubelet/pleg/evented.go).
func (s *Server) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream runtimeapi.RuntimeService_GetContainerEventsServer) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	stop := context.AfterFunc(s.closing, func() {
		cancel(fmt.Errorf("the daemon is about to end: %w", errdefs.ErrUnavailable))
	})
	defer stop()

	sub := s.pods.Subscribe()
	defer sub.Close()
	var told uint64
	for {
		e, lost, err := sub.Next(ctx)
		if err != nil {
			return err
		}
		if lost > told {
			klog.FromContext(ctx).Info("Subscriber is too slow; events were dropped", "events", lost-told, "all", lost)
			told = lost
		}
		if err := stream.Send(containerEvent(e)); err != nil {
			return err
		}
	}
}

var eventTypes = map[sandbox.EventType]runtimeapi.ContainerEventType{
	sandbox.EventCreated: runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT,
	sandbox.EventStarted: runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT,
	sandbox.EventStopped: runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT,
	sandbox.EventDeleted: runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT,
}

// containerEvent makes the message, with the pod and its containers as they are now: at least as new as the event, and of one
// moment each. The kubelet ignores events without a pod's metadata, so a pod that is gone is told as it was.
func containerEvent(e podEvent) *runtimeapi.ContainerEventResponse {
	r := &runtimeapi.ContainerEventResponse{
		ContainerId:        e.ContainerID,
		ContainerEventType: eventTypes[e.Type],
		CreatedAt:          e.At.UnixNano(),
		PodSandboxStatus:   podStatus(e.Pod, e.Pod.Status()),
		ContainersStatuses: containerStatuses(e.Pod),
	}
	return r
}

// podEvent is a sandbox.Event.
type podEvent struct {
	ContainerID string
	Pod         pod
	Type        sandbox.EventType
	At          time.Time
}

// containerStatuses are those of all containers of a pod that the CRI shows.
func containerStatuses(p pod) []*runtimeapi.ContainerStatus {
	var out []*runtimeapi.ContainerStatus
	for _, c := range p.Containers() {
		if st := c.Status(); listed(st.State) {
			out = append(out, containerStatus(c, st))
		}
	}
	return out
}
