// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
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

	"github.com/embedcri/embedcri/internal/cgroup"
	"github.com/embedcri/embedcri/pkg/config"
	"github.com/embedcri/embedcri/pkg/spec"
)

// probeTimeout bounds a question to a runtime, which only prints what was compiled in.
const probeTimeout = 10 * time.Second

// probe runs a command of a runtime and returns what it prints; nothing if it does not know the command.
func probe(path string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, args...).Output()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%s %v: no answer within %v", path, args, probeTimeout)
	}
	if err != nil {
		return nil, nil //nolint:nilerr // an older runtime
	}
	return out, nil
}

// runtimeFeatures is what a runtime says it can do (runtime-spec, features.md); nil if it does not understand the question.
func runtimeFeatures(path string) (*features.Features, error) {
	out, err := probe(path, "features")
	if out == nil {
		return nil, err
	}
	f := &features.Features{}
	if err := json.Unmarshal(out, f); err != nil {
		return nil, fmt.Errorf("%s features: %w", path, err)
	}
	return f, nil
}

// execCgroup tells whether the runtime's exec takes --cgroup as we give it. On v1 only runc understands a hierarchy there; crun 1.8
// would leave the process outside of the container's cgroups, and thus without its limits and its device rules.
func execCgroup(path string, f *features.Features) (bool, error) {
	if !cgroup.Unified() {
		return f != nil && f.Annotations["org.opencontainers.runc.version"] != "", nil
	}
	help, err := probe(path, "exec", "--help")
	return bytes.Contains(help, []byte("--cgroup")), err
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
