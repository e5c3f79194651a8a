// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/pkg/task"
)

// What could not be taken back is tried again after retryFirst, and then ever more rarely.
const (
	retryFirst = time.Second
	retryMost  = time.Minute
)

// discard takes back what there is of a container that never came to be, in whatever state its making was cut off. The record goes
// last. It is idempotent.
func (m *Manager) discard(ctx context.Context, id, handler string) error {
	if err := m.discardTask(ctx, id, handler); err != nil {
		return err
	}
	var meta containerIdentity
	if err := m.ctrRecs.Get(id, identityRecord, &meta); err == nil {
		if err := m.unmountVolumes(ctx, meta); err != nil {
			return fmt.Errorf("remove half-made container %s: %w", id, err)
		}
	}
	if err := m.o.Images.RemoveRootfs(ctx, id, m.tasks.Rootfs(id)); err != nil {
		return fmt.Errorf("remove half-made container %s: %w", id, err)
	}
	if err := m.tasks.RemoveBundle(id); err != nil {
		return fmt.Errorf("remove half-made container %s: %w", id, err)
	}
	return m.ctrRecs.Delete(id)
}

// discardTask is the part of discard that ends processes. A handler that is not configured any more never came that far, or its
// runtime would be needed: the error says so.
func (m *Manager) discardTask(ctx context.Context, id, handler string) error {
	return m.tasks.Discard(ctx, id, handler)
}

// takeBack discards a container of the pod whose creation has failed; if that fails it goes on in the background.
func (p *Pod) takeBack(id, handler string) error {
	err := caught(func() error { return p.m.discard(context.WithoutCancel(p.m.base), id, handler) })
	if err != nil {
		p.m.discardLater(p, id, handler)
		return fmt.Errorf("take it back: %w", err)
	}
	return nil
}

// discardLater discards in the background, until it succeeds. The pod, if there is one, cannot be stopped before that.
func (m *Manager) discardLater(p *Pod, id, handler string) {
	if p != nil {
		p.holdForDiscard()
	}
	m.wg.Go(func() {
		m.retry("remove half-made container", id, func() error { return m.discard(context.WithoutCancel(m.base), id, handler) })
		if p != nil {
			p.endCreate()
		}
	})
}

// removeLater removes a whole container that belongs to no pod.
func (m *Manager) removeLater(t *task.Task, meta containerIdentity) {
	m.wg.Go(func() {
		m.retry("remove container without a pod", meta.ID, func() error {
			ctx, cancel := context.WithTimeout(m.base, unmakeTimeout)
			defer cancel()
			if err := t.Stop(ctx, unix.SIGKILL, 0); err != nil {
				return err
			}
			if err := m.unmountVolumes(ctx, meta); err != nil {
				return err
			}
			if err := m.o.Images.RemoveRootfs(ctx, meta.ID, m.tasks.Rootfs(meta.ID)); err != nil {
				return err
			}
			if err := t.Delete(ctx); err != nil {
				return err
			}
			return m.ctrRecs.Delete(meta.ID)
		})
	})
}

// retry calls f until it succeeds or the manager closes.
func (m *Manager) retry(what, id string, f func() error) {
	for wait := retryFirst; ; wait = min(2*wait, retryMost) {
		err := f()
		if err == nil || m.base.Err() != nil {
			return
		}
		m.log().Error(err, what+"; trying again", "container", id, "in", wait)
		select {
		case <-time.After(wait):
		case <-m.base.Done():
			return
		}
	}
}
