// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"maps"
	"path"

	"github.com/containerd/errdefs"
)

// Annotations that tools which read OCI specifications expect (NRI plug-ins, kata, debuggers). The names are containerd's.
const (
	AnnotationContainerType = "io.kubernetes.cri.container-type" // always "container": pods have no process of their own
	AnnotationContainerName = "io.kubernetes.cri.container-name"
	AnnotationImageName     = "io.kubernetes.cri.image-name"
	AnnotationPodID         = "io.kubernetes.cri.sandbox-id"
	AnnotationPodName       = "io.kubernetes.cri.sandbox-name"
	AnnotationPodNamespace  = "io.kubernetes.cri.sandbox-namespace"
	AnnotationPodUID        = "io.kubernetes.cri.sandbox-uid"
)

// annotations lets through what the handler's allow-lists name, and sets the standard ones last, so that nobody can forge
// them. OCI runtimes act on annotations (org.systemd.property.*, run.oci.*), which is why nothing passes by default
// (CVE-2024-3154); an image's labels never get here.
func (b *builder) annotations() error {
	out := map[string]string{}
	if err := allowed(out, b.in.Pod.GetAnnotations(), b.in.Handler.PodAnnotations); err != nil {
		return err
	}
	if err := allowed(out, b.c.GetAnnotations(), b.in.Handler.ContainerAnnotations); err != nil {
		return err
	}
	pod := b.in.Pod.GetMetadata()
	maps.Copy(out, map[string]string{
		AnnotationContainerType: "container",
		AnnotationContainerName: b.c.GetMetadata().GetName(),
		AnnotationImageName:     b.in.ImageName,
		AnnotationPodID:         b.in.PodID,
		AnnotationPodName:       pod.GetName(),
		AnnotationPodNamespace:  pod.GetNamespace(),
		AnnotationPodUID:        pod.GetUid(),
	})
	for k, v := range out {
		b.g.AddAnnotation(k, v)
	}
	return nil
}

// allowed copies the annotations whose key matches one of the patterns (path.Match: "example.com/*").
func allowed(to, from map[string]string, patterns []string) error {
	for _, p := range patterns {
		for k, v := range from {
			ok, err := path.Match(p, k)
			if err != nil {
				return fmt.Errorf("annotation pattern %q of the runtime handler: %w: %w", p, err, errdefs.ErrInvalidArgument)
			}
			if ok {
				to[k] = v
			}
		}
	}
	return nil
}
