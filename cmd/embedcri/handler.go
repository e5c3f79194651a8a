// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/pkg/config"
	"github.com/embedcri/embedcri/pkg/spec"
)

// featuresTimeout bounds `<runtime> features`, which only prints what was compiled in.
const featuresTimeout = 10 * time.Second

// runtimeFeatures is what a runtime says it can do (runtime-spec, features.md); nil if it does not understand the question.
func runtimeFeatures(path string) (*features.Features, error) {
	ctx, cancel := context.WithTimeout(context.Background(), featuresTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "features").Output()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%s features: no answer within %v", path, featuresTimeout)
	}
	if err != nil {
		return nil, nil //nolint:nilerr // an older runtime
	}
	f := &features.Features{}
	if err := json.Unmarshal(out, f); err != nil {
		return nil, fmt.Errorf("%s features: %w", path, err)
	}
	return f, nil
}

// execCgroup tells whether the runtime's exec takes --cgroup as we give it, which is runc's way. On cgroup v1 crun 1.8 leaves the
// process outside of the container's cgroups, and thus without its limits and its device rules; on v2 with systemd it looks for the
// sub-cgroup below one that it has made itself, and fails.
func execCgroup(f *features.Features) bool {
	return f != nil && f.Annotations["org.opencontainers.runc.version"] != ""
}

// handlerSpec is what a handler's containers may use: the configuration, and what the runtime can do. A runtime that cannot say can
// do nothing beyond the basics.
func handlerSpec(h config.Handler, f *features.Features, node spec.Node) (spec.Handler, error) {
	s := spec.Handler{
		PodAnnotations: h.PodAnnotations, ContainerAnnotations: h.ContainerAnnotations,
		PrivilegedWithoutHostDevices: h.PrivilegedWithoutHostDevices, PrivilegedAllDevicesAllowed: h.PrivilegedAllDevicesAllowed,
		DeviceOwnership: h.DeviceOwnership, CgroupWritable: h.CgroupWritable, PidsLimit: h.PidsLimit,
	}
	var err error
	if s.UnsetSeccomp, err = spec.ParseUnsetSeccomp(h.UnsetSeccomp); err != nil {
		return s, err
	}
	for _, l := range h.Rlimits {
		r, err := spec.ParseRlimit(l)
		if err == nil {
			err = canLimit(r, node)
		}
		if err != nil {
			return s, err
		}
		s.Rlimits = append(s.Rlimits, r)
	}
	return s.WithFeatures(f, node), nil
}

// canLimit refuses a limit above the daemon's own, which only CAP_SYS_RESOURCE can give (setrlimit(2)): every container would fail.
func canLimit(r specs.POSIXRlimit, node spec.Node) error {
	if slices.Contains(node.Capabilities, "CAP_SYS_RESOURCE") {
		return nil
	}
	resource, err := spec.RlimitNumber(r.Type)
	if err != nil {
		return err
	}
	var own unix.Rlimit
	if err := unix.Getrlimit(resource, &own); err != nil {
		return fmt.Errorf("rlimits: %s: %w", r.Type, err)
	}
	if r.Hard > own.Max {
		return fmt.Errorf("rlimits: %s: hard limit %d is above the daemon's own, %d, and it lacks CAP_SYS_RESOURCE: %w",
			r.Type, r.Hard, own.Max, errdefs.ErrFailedPrecondition)
	}
	return nil
}
