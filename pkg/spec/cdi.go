// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/pkg/parser"
)

// CDIDevices returns the qualified names (vendor.com/class=name) of the CDI devices a container asks for, each once: those of
// the field, then those of annotations below cdi.k8s.io/, which device plug-ins used before there was a field. Pure.
func CDIDevices(c *runtimeapi.ContainerConfig) ([]string, error) {
	var out []string
	add := func(field, name string) error {
		if !parser.IsQualifiedName(name) {
			return invalid(field, "%q is not a CDI device name such as vendor.com/class=name", name)
		}
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
		return nil
	}
	for i, d := range c.GetCDIDevices() {
		if err := add(fmt.Sprintf("CDI_devices[%d].name", i), d.GetName()); err != nil {
			return nil, err
		}
	}
	_, annotated, err := cdi.ParseAnnotations(c.GetAnnotations())
	if err != nil {
		return nil, fmt.Errorf("annotations: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	slices.Sort(annotated) // they come out of a map
	for _, name := range annotated {
		if err := add("annotations", name); err != nil {
			return nil, err
		}
	}
	return out, nil
}
