// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/embedcri/embedcri/internal/failpoint"
)

// Resources returns the limits that the container has, as its OCI spec says, and its oom_score_adj; nil if they are not known.
// They must not be changed.
func (t *Task) Resources() (*specs.LinuxResources, *int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var oom *int
	if t.process != nil {
		oom = t.process.OOMScoreAdj
	}
	return t.resources, oom
}

// Update changes the container's limits. change is given those of now and returns the complete new ones, without device rules,
// which no update touches. They are recorded once the runtime has applied them, never before.
func (t *Task) Update(ctx context.Context, change func(now *specs.LinuxResources) (*specs.LinuxResources, error)) error {
	if err := t.op.Lock(ctx); err != nil {
		return fmt.Errorf("update container %s: %w", t.id, err)
	}
	defer t.op.Unlock()
	s := t.Status()
	if s.State != Created && s.State != Running || s.Pid == 0 {
		return fmt.Errorf("update container %s: it is %s: %w", t.id, s.State, errdefs.ErrFailedPrecondition)
	}
	now, _ := t.Resources()
	if now == nil {
		now = &specs.LinuxResources{}
	}
	next, err := change(now)
	if err != nil {
		return fmt.Errorf("update container %s: %w", t.id, err)
	}
	spec, err := readSpec(t.dir)
	if err != nil {
		return fmt.Errorf("update container %s: %w", t.id, err)
	}
	if err := failpoint.RuntimeUpdate.Do(func() error { return t.runtime.Update(ctx, t.id, t.dir, next) }); err != nil {
		// A runtime may have applied half of it (crun does not take it back).
		before := *now
		before.Devices = nil
		if rerr := t.runtime.Update(ctx, t.id, t.dir, &before); rerr != nil {
			err = errors.Join(err, fmt.Errorf("take it back: %w", rerr))
		}
		return fmt.Errorf("update container %s: %w", t.id, err)
	}
	applied := *next
	applied.Devices = now.Devices
	spec.Linux.Resources = &applied
	t.mu.Lock()
	t.resources = &applied
	t.mu.Unlock()
	return failpoint.UpdateRecord.Do(func() error { return writeSpec(t.dir, spec) })
}
