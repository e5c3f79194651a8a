// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/failpoint"
	"github.com/embedcri/embedcri/internal/namespace"
)

// unmakeTimeout bounds what goes on after the caller has given up.
const unmakeTimeout = 3 * time.Minute

// Stop ends all processes of the pod and takes its network and namespaces down. Stopping a stopped pod succeeds. Processes are
// ended first, so that a network that cannot be taken down keeps nothing else alive: Stop then fails, and a repeated Stop goes on
// where this one was stuck. The making of a pod that is not yet made is cut short, and what there is of it is taken back.
func (p *Pod) Stop(ctx context.Context) error {
	if err := p.stopMaking(ctx); err != nil {
		return fmt.Errorf("stop pod %s: %w", p.meta.ID, err)
	}
	if err := p.op.Lock(ctx); err != nil {
		return fmt.Errorf("stop pod %s: %w", p.meta.ID, err)
	}
	defer p.op.Unlock()
	return p.stopLocked(ctx)
}

// stopMaking takes the context of the pod's making away, which nothing uses once the pod is made, and waits for its end: whoever
// asks for the same pod after this must not join what was stopped.
func (p *Pod) stopMaking(ctx context.Context) error {
	if p.endMaking == nil {
		return nil
	}
	p.endMaking(errStopped)
	select {
	case <-p.made:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for its making to end: %w", context.Cause(ctx))
	}
}

// stopLocked needs Pod.op.
func (p *Pod) stopLocked(ctx context.Context) error {
	if s := p.state.Load().State; s == NotReady || s == Removing {
		return nil
	}
	if err := failpoint.PodStopping.Do(func() error { return p.apply(evStop) }); err != nil {
		return err
	}
	if err := p.stop(ctx); err != nil {
		return fmt.Errorf("stop pod %s: %w", p.meta.ID, err)
	}
	if err := failpoint.PodStopped.Do(func() error { return p.apply(evStopped) }); err != nil {
		return err
	}
	p.m.events.podStopped(p)
	return nil
}

func (p *Pod) stop(ctx context.Context) error {
	if err := p.waitCreated(ctx); err != nil {
		return err
	}
	if err := p.stopContainers(ctx); err != nil {
		return err
	}
	if err := p.stopInit(ctx); err != nil {
		return err
	}
	// What follows is finished, whoever waits: a plug-in that is cut off leaks an address.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unmakeTimeout)
	defer cancel()
	s := p.state.Load()
	if s.Attachment != nil {
		if err := failpoint.PodDetach.Do(func() error { return p.m.o.Network.Detach(ctx, s.Attachment) }); err != nil {
			return err
		}
		if err := p.noteUnmade(failpoint.PodDetached, func(s *podState) { s.Attachment = nil }); err != nil {
			return err
		}
	}
	if s.Pins {
		if err := failpoint.PodUnpin.Do(func() error { return namespace.Delete(p.pinDir()) }); err != nil {
			return err
		}
		err := p.noteUnmade(failpoint.PodUnpinned, func(s *podState) { s.Pins, s.Namespaces = false, namespace.Paths{} })
		if err != nil {
			return err
		}
		p.m.stats.Forget(p.meta.ID)
	}
	return nil
}

// stopContainers ends all containers at once, without a grace period: the kubelet has given them theirs ("If there are any running
// containers in the sandbox, they must be forcibly terminated", StopPodSandbox in api.proto).
func (p *Pod) stopContainers(ctx context.Context) error {
	cs := p.Containers()
	errs := make([]error, len(cs))
	var wg sync.WaitGroup
	for i, c := range cs {
		wg.Go(func() { errs[i] = c.task.Stop(ctx, unix.SIGKILL, 0) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Remove stops the pod, removes its containers and all that is left of it. Removing a removed pod succeeds.
func (p *Pod) Remove(ctx context.Context) error {
	if err := p.stopMaking(ctx); err != nil {
		return fmt.Errorf("remove pod %s: %w", p.meta.ID, err)
	}
	if err := p.op.Lock(ctx); err != nil {
		return fmt.Errorf("remove pod %s: %w", p.meta.ID, err)
	}
	defer p.op.Unlock()
	return p.removeLocked(ctx)
}

// removeLocked needs Pod.op.
func (p *Pod) removeLocked(ctx context.Context) error {
	if p.removed {
		return nil
	}
	if err := p.stopLocked(ctx); err != nil {
		return err
	}
	if err := failpoint.PodRemoving.Do(func() error { return p.apply(evRemove) }); err != nil {
		return err
	}
	for _, c := range p.Containers() {
		if err := c.Remove(ctx); err != nil {
			return fmt.Errorf("remove pod %s: %w", p.meta.ID, err)
		}
	}
	if err := p.removeInit(ctx); err != nil {
		return fmt.Errorf("remove pod %s: %w", p.meta.ID, err)
	}
	if err := failpoint.PodFilesRemove.Do(p.removeFiles); err != nil {
		return fmt.Errorf("remove pod %s: %w", p.meta.ID, err)
	}
	if err := failpoint.PodRecordGone.Do(func() error { return p.m.podRecs.Delete(p.meta.ID) }); err != nil {
		return fmt.Errorf("remove pod %s: %w", p.meta.ID, err)
	}
	p.m.levels.Release(p.meta.Labels)
	p.removed = true
	defer p.m.events.deleted(p.meta.ID) // when it cannot be found any more
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	delete(p.m.pods, p.meta.ID)
	if key := podKey(p.Config().GetMetadata()); p.m.names[key] == p {
		delete(p.m.names, key)
	}
	return nil
}
