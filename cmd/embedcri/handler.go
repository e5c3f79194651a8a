// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go/features"

	"github.com/embedcri/embedcri/pkg/config"
	"github.com/embedcri/embedcri/pkg/spec"
)

// featuresTimeout bounds `<runtime> features`, which only prints what was compiled in.
const featuresTimeout = 10 * time.Second

// handlerSpec is what a handler's containers may use: the configuration, and what the runtime says it can do
// (runtime-spec, features.md). A runtime that does not know the command can do nothing beyond the basics.
func handlerSpec(path string, h config.Handler, node spec.Node) (spec.Handler, error) {
	s := spec.Handler{
		PodAnnotations: h.PodAnnotations, ContainerAnnotations: h.ContainerAnnotations,
		PrivilegedWithoutHostDevices: h.PrivilegedWithoutHostDevices,
	}
	ctx, cancel := context.WithTimeout(context.Background(), featuresTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "features").Output()
	if err != nil {
		if ctx.Err() != nil {
			return s, fmt.Errorf("%s features: no answer within %v", path, featuresTimeout)
		}
		return s.WithFeatures(nil, node), nil
	}
	var f features.Features
	if err := json.Unmarshal(out, &f); err != nil {
		return s, fmt.Errorf("%s features: %w", path, err)
	}
	return s.WithFeatures(&f, node), nil
}
