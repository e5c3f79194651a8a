// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/pkg/task"
)

// containerStates is what the CRI shows of a task's states. Creating is not in it: a container is there when CreateContainer has
// returned, and not before.
var containerStates = map[task.State]runtimeapi.ContainerState{
	task.Created:  runtimeapi.ContainerState_CONTAINER_CREATED,
	task.Starting: runtimeapi.ContainerState_CONTAINER_CREATED,
	task.Running:  runtimeapi.ContainerState_CONTAINER_RUNNING,
	task.Exited:   runtimeapi.ContainerState_CONTAINER_EXITED,
	task.Removing: runtimeapi.ContainerState_CONTAINER_EXITED,
	task.Unknown:  runtimeapi.ContainerState_CONTAINER_UNKNOWN,
}

// listed tells whether the CRI shows a container in state s at all.
func listed(s task.State) bool {
	_, ok := containerStates[s]
	return ok
}

// containerItem is a container in a list. Its maps and messages are the container's own, which nobody changes.
func containerItem(c container, st task.Status) *runtimeapi.Container {
	cfg := c.Config()
	return &runtimeapi.Container{
		Id:           c.ID(),
		PodSandboxId: c.PodID(),
		Metadata:     containerMetadata(cfg),
		Image:        imageSpec(c),
		ImageRef:     imageRef(c),
		ImageId:      c.ImageID(),
		State:        containerStates[st.State],
		CreatedAt:    nanoseconds(c.CreatedAt()),
		Labels:       cfg.GetLabels(),
		Annotations:  cfg.GetAnnotations(),
	}
}

func containerStatus(c container, st task.Status) *runtimeapi.ContainerStatus {
	cfg := c.Config()
	s := &runtimeapi.ContainerStatus{
		Id:          c.ID(),
		Metadata:    containerMetadata(cfg),
		State:       containerStates[st.State],
		CreatedAt:   nanoseconds(c.CreatedAt()),
		StartedAt:   nanoseconds(st.StartedAt),
		Image:       imageSpec(c),
		ImageRef:    imageRef(c),
		ImageId:     c.ImageID(),
		Labels:      cfg.GetLabels(),
		Annotations: cfg.GetAnnotations(),
		Mounts:      c.Mounts(),
		LogPath:     c.LogPath(),
		Resources:   c.Resources(),
		User:        c.User(),
		StopSignal:  c.StopSignal(),
		Reason:      st.Reason,
		Message:     text(st.Message),
	}
	switch s.State {
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		s.StartedAt = 0 // it is being started, which is not yet a time to report
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		s.FinishedAt = nanoseconds(st.FinishedAt)
		s.ExitCode = st.Exit.Code()
		if s.Reason == "" {
			s.Reason = exitReason(st.Exit)
		}
		if s.Message == "" {
			s.Message = text(exitMessage(st.Exit))
		}
	}
	return s
}

// containerMetadata is never nil: a container whose record cannot be read has none, and the kubelet's garbage collection does not
// check before it reads the name.
func containerMetadata(c *runtimeapi.ContainerConfig) *runtimeapi.ContainerMetadata {
	if m := c.GetMetadata(); m != nil {
		return m
	}
	return &runtimeapi.ContainerMetadata{}
}

// imageSpec is the image as the user wrote it, which is what the kubelet shows as the container's image. What the request has in
// image is, from a kubelet, the id that PullImage returned.
func imageSpec(c container) *runtimeapi.ImageSpec {
	in := c.Config().GetImage()
	name := in.GetUserSpecifiedImage()
	if name == "" {
		name = in.GetImage()
	}
	if name == "" {
		name = unknownImage
	}
	return &runtimeapi.ImageSpec{
		Image:              name,
		Annotations:        in.GetAnnotations(),
		UserSpecifiedImage: in.GetUserSpecifiedImage(),
		RuntimeHandler:     in.GetRuntimeHandler(),
	}
}

// imageRef is the digested reference, or the id of an image that has none (one that was never pulled). The kubelet refuses a status
// without it.
func imageRef(c container) string {
	if ref := c.ImageRef(); ref != "" {
		return ref
	}
	if id := c.ImageID(); id != "" {
		return id
	}
	return unknownImage
}

// unknownImage is what a container is made from whose record cannot be read. The kubelet refuses a status without an image, and
// would never get to remove such a container.
const unknownImage = "unknown"

// nanoseconds is a time as the CRI has it. The zero time is 0, "not specified"; UnixNano is undefined for it.
func nanoseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
