// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/namespace"
	"github.com/embedcri/embedcri/pkg/ioattach"
	"github.com/embedcri/embedcri/pkg/network"
	"github.com/embedcri/embedcri/pkg/spec"
)

// Names of records in the store. Identity is written once, state at each transition.
const (
	identityRecord = "meta"
	stateRecord    = "state" // of pods; a container's is its task's
)

// podIdentity is what a pod is; it never changes.
type podIdentity struct {
	ID        string                                `json:"id"`
	Handler   string                                `json:"handler"`
	CreatedAt time.Time                             `json:"createdAt"`
	Labels    spec.Labels                           `json:"labels,omitzero"` // of SELinux
	Config    message[*runtimeapi.PodSandboxConfig] `json:"config"`
}

// podState is how far a pod is. What is set in it has been made, or may have been: it is recorded first.
type podState struct {
	State      State               `json:"state"`
	HalfMade   bool                `json:"halfMade,omitempty"` // it has not been ready: whatever its state, a restart takes it back
	BootID     string              `json:"bootID"`
	Files      bool                `json:"files,omitempty"` // the directory of shared files, with /dev/shm
	Pins       bool                `json:"pins,omitempty"`  // pinned namespaces
	Namespaces namespace.Paths     `json:"namespaces,omitzero"`
	Attachment *network.Attachment `json:"attachment,omitempty"` // CNI, with all that DEL needs
	Init       bool                `json:"init,omitempty"`       // the pod's own init
	Message    string              `json:"message,omitempty"`    // why it is not ready, if it should be

	// What UpdatePodSandboxResources brought, for people and plug-ins to see.
	Overhead  *message[*runtimeapi.LinuxContainerResources] `json:"overhead,omitempty"`
	Resources *message[*runtimeapi.LinuxContainerResources] `json:"resources,omitempty"`
}

// containerIdentity is what a container is; it never changes.
type containerIdentity struct {
	ID        string                               `json:"id"`
	PodID     string                               `json:"podID"`
	Handler   string                               `json:"handler"`
	CreatedAt time.Time                            `json:"createdAt"`
	ImageID   string                               `json:"imageID"`
	ImageRef  string                               `json:"imageRef"` // a name by digest, if the image has one
	LogPath   string                               `json:"logPath,omitempty"`
	User      spec.User                            `json:"user"`
	Labels    spec.Labels                          `json:"labels,omitzero"` // of SELinux
	Streams   ioattach.Options                     `json:"streams"`
	Signal    int                                  `json:"signal"` // that asks it to stop
	PodInit   bool                                 `json:"podInit,omitempty"`
	Lost      bool                                 `json:"-"`                   // the record is damaged; the rest is made up
	Volumes   []string                             `json:"volumes,omitempty"`   // where images are mounted as volumes
	VolumeIDs []string                             `json:"volumeIDs,omitempty"` // the ids of these images
	Config    message[*runtimeapi.ContainerConfig] `json:"config"`
}

// message is a CRI message in a record, as JSON with the names of api.proto, so that people can read records.
type message[T proto.Message] struct{ M T }

func (m message[T]) MarshalJSON() ([]byte, error) {
	return protojson.MarshalOptions{UseProtoNames: true}.Marshal(m.M)
}

func (m *message[T]) UnmarshalJSON(b []byte) error {
	m.M = m.M.ProtoReflect().New().Interface().(T)
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, m.M)
}

var (
	_ json.Marshaler   = message[*runtimeapi.PodSandboxConfig]{}
	_ json.Unmarshaler = (*message[*runtimeapi.PodSandboxConfig])(nil)
)

// podKey is what makes a pod unique to the kubelet: the same name, uid and attempt again is the same call again.
func podKey(md *runtimeapi.PodSandboxMetadata) string {
	return fmt.Sprintf("pod %s/%s (uid %s, attempt %d)", md.GetNamespace(), md.GetName(), md.GetUid(), md.GetAttempt())
}

func containerKey(podID string, md *runtimeapi.ContainerMetadata) string {
	return fmt.Sprintf("container %s (attempt %d) of pod %s", md.GetName(), md.GetAttempt(), podID)
}
