// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/embedcri/embedcri/internal/failpoint"
)

// Pause freezes all processes of a running container. While it is paused an exec is refused; Stop thaws it. Pausing a paused
// container succeeds. A restarted daemon finds it paused.
func (t *Task) Pause(ctx context.Context) error {
	return t.setPaused(ctx, "pause", true, t.runtime.Pause)
}

// Resume lets the processes of a paused container run on. Resuming one that runs succeeds.
func (t *Task) Resume(ctx context.Context) error {
	return t.setPaused(ctx, "resume", false, t.runtime.Resume)
}

func (t *Task) setPaused(ctx context.Context, verb string, paused bool, do func(ctx context.Context, id, dir string) error) error {
	if err := t.op.Lock(ctx); err != nil {
		return fmt.Errorf("%s container %s: %w", verb, t.id, err)
	}
	defer t.op.Unlock()
	switch s := t.Status(); {
	case s.State != Running:
		return fmt.Errorf("%s container %s: it is %s, not running: %w", verb, t.id, s.State, errdefs.ErrFailedPrecondition)
	case s.Paused == paused && (t.cgroup == nil || t.cgroup.Frozen() == paused):
		return nil
	case s.Stop != nil && paused:
		return fmt.Errorf("pause container %s: it is being stopped: %w", t.id, errdefs.ErrFailedPrecondition)
	}
	err := failpoint.RuntimePause.Do(func() error {
		if t.cgroup != nil && t.cgroup.Frozen() == paused {
			return nil // by a call that was cut off; runc refuses to do it again
		}
		return do(ctx, t.id, t.dir)
	})
	if err != nil {
		return fmt.Errorf("%s container %s: %w", verb, t.id, err)
	}
	return failpoint.PauseRecord.Do(func() error {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.Status().State != Running {
			return nil // it has ended meanwhile
		}
		return t.noteLocked(func(s *Status) { s.Paused = paused })
	})
}
