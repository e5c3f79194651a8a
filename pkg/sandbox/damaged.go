// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/pkg/spec"
	"github.com/embedcri/embedcri/pkg/store"
)

// What is known of pods and containers whose identity cannot be read: as much as other records tell, and placeholders for the rest.
// It is enough to list, stop and remove them. Nobody's metadata can be mistaken for a placeholder: the uid is not one.

// setAside keeps a copy of a record that cannot be read: it is evidence, and the original goes when its object is removed.
func (m *Manager) setAside(k *store.Kind, id, name string, why error) {
	path, err := k.SetAside(id, name)
	m.log().Error(why, "record cannot be read; what it describes can still be stopped and removed", "id", id, "evidence", path)
	if err != nil {
		m.log().Error(err, "keep evidence", "id", id)
	}
}

// lostPodIdentity makes up the identity of a pod from its state: CNI is told the pod's name.
func (m *Manager) lostPodIdentity(id string, s podState) podIdentity {
	md := &runtimeapi.PodSandboxMetadata{}
	if s.Attachment != nil {
		for _, kv := range s.Attachment.Args {
			switch kv[0] {
			case "K8S_POD_NAMESPACE":
				md.Namespace = kv[1]
			case "K8S_POD_NAME":
				md.Name = kv[1]
			case "K8S_POD_UID":
				md.Uid = kv[1]
			}
		}
	}
	md.Name, md.Namespace, md.Uid = cmp.Or(md.Name, "unknown-"+id[:min(12, len(id))]), cmp.Or(md.Namespace, "unknown"), cmp.Or(md.Uid, id)
	return podIdentity{
		ID: id, Handler: m.o.Default, CreatedAt: modTime(m.podRecs.Dir(id)),
		Config: message[*runtimeapi.PodSandboxConfig]{&runtimeapi.PodSandboxConfig{Metadata: md}},
	}
}

// lostContainerIdentity makes up the identity of a container from its bundle, which bears the names as annotations. Without a
// bundle (after a reboot) it belongs to no pod, and nothing of it lives.
func (m *Manager) lostContainerIdentity(id string) containerIdentity {
	meta := containerIdentity{ID: id, Handler: m.o.Default, CreatedAt: modTime(m.ctrRecs.Dir(id)), Signal: 15, Lost: true}
	var oci specs.Spec
	if b, err := os.ReadFile(filepath.Join(m.tasks.Dir(id), "config.json")); err == nil && json.Unmarshal(b, &oci) == nil {
		meta.PodID = oci.Annotations[spec.AnnotationPodID]
	}
	if m.pods[id] != nil {
		meta.PodID, meta.PodInit = id, true // the pod's own init has the pod's id
	}
	name := cmp.Or(oci.Annotations[spec.AnnotationContainerName], "unknown-"+id[:min(12, len(id))])
	meta.ImageRef = cmp.Or(oci.Annotations[spec.AnnotationImageName], "unknown") // clients refuse a status without one
	image := &runtimeapi.ImageSpec{Image: meta.ImageRef}
	meta.Config = message[*runtimeapi.ContainerConfig]{&runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: image,
	}}
	for _, mnt := range oci.Mounts { // image volumes lie in the bundle
		if filepath.Dir(mnt.Source) == m.tasks.Dir(id) {
			meta.Volumes = append(meta.Volumes, mnt.Source)
		}
	}
	return meta
}

func modTime(path string) time.Time {
	st, err := os.Stat(path)
	if err != nil {
		return time.Now()
	}
	return st.ModTime()
}
