// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/embedcri/embedcri/internal/ctxlock"
	"github.com/embedcri/embedcri/pkg/network"
	"github.com/embedcri/embedcri/pkg/task"
)

// Recover brings back what previous daemons have made. It has to be called once, before the first other call. What was being made
// when the daemon died is unmade; what was being unmade goes on when the kubelet asks again. A record that cannot be read costs
// its pod or container, not the node: it is kept, and shown as unknown.
func (m *Manager) Recover(ctx context.Context) error {
	if err := m.recoverPods(); err != nil {
		return err
	}
	if err := m.recoverContainers(ctx); err != nil {
		return err
	}
	m.endLeftovers()
	m.settlePods(ctx)
	m.events.recovered()
	m.collectNetworks(ctx)
	return nil
}

// endLeftovers hands all tasks to the task manager, which ends what is nobody's.
func (m *Manager) endLeftovers() {
	var tasks []*task.Task
	for _, c := range m.Containers() {
		tasks = append(tasks, c.task)
	}
	for _, p := range m.Pods() {
		if p.init != nil {
			tasks = append(tasks, p.init)
		}
	}
	m.tasks.EndLeftovers(tasks)
}

// gcTimeout bounds the collection of networks, which the daemon's start waits for.
const gcTimeout = 10 * time.Second

// collectNetworks has CNI free what no pod holds any more, such as addresses of pods whose records were lost. It has to be done
// before the first new pod, which it would not know of. What fails is tried again at the next start.
func (m *Manager) collectNetworks(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, gcTimeout)
	defer cancel()
	var valid []*network.Attachment
	for _, p := range m.Pods() {
		if a := p.state.Load().Attachment; a != nil {
			valid = append(valid, a)
		}
	}
	if err := m.o.Network.GC(ctx, valid); err != nil {
		m.log().Error(err, "collect garbage of the network")
	}
}

func (m *Manager) recoverPods() error {
	ids, err := m.podRecs.List()
	if err != nil {
		return err
	}
	for _, id := range ids {
		var meta podIdentity
		err := m.podRecs.Get(id, identityRecord, &meta)
		if errdefs.IsNotFound(err) {
			// Identity is durable before anything is made, so without it nothing was.
			if err := m.podRecs.Delete(id); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			m.log().Error(err, "pod record cannot be read; left where it is", "pod", id)
			continue
		}
		p, err := m.newPod(meta)
		if err != nil {
			return err
		}
		var s podState
		err = m.podRecs.Get(id, stateRecord, &s)
		switch {
		case errdefs.IsNotFound(err):
			// The daemon died before it was written, and nothing had been made; or the power went before it was on the disk, and
			// with it all but what CNI has on record, which is collected. Either way there is nothing to go on with.
			s = podState{State: Creating, Files: true, Pins: true, Init: true}
		case err != nil:
			m.log().Error(err, "pod state cannot be read; it can still be stopped and removed", "pod", id)
			// As if everything had been made: unmaking is idempotent.
			s = podState{State: Unknown, Files: true, Pins: true, Init: true, Message: err.Error()}
		}
		p.state.Store(&s)
		m.levels.Reserve(meta.Labels)
		m.events.restoredPod(p, s.State)
		m.pods[id] = p
		m.names[podKey(meta.Config.M.GetMetadata())] = p
	}
	return nil
}

// recoverContainers loads all tasks side by side: it is mostly waiting for small files.
func (m *Manager) recoverContainers(ctx context.Context) error {
	ids, err := m.ctrRecs.List()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4 * runtime.GOMAXPROCS(0))
	for _, id := range ids {
		g.Go(func() error { return m.recoverContainer(ctx, id) })
	}
	return g.Wait()
}

func (m *Manager) recoverContainer(ctx context.Context, id string) error {
	var meta containerIdentity
	if err := m.ctrRecs.Get(id, identityRecord, &meta); err != nil {
		if errdefs.IsNotFound(err) {
			return m.discard(ctx, id)
		}
		m.log().Error(err, "container record cannot be read; left where it is", "container", id)
		return nil
	}
	p := m.pods[meta.PodID]
	if p == nil {
		m.log().Info("container without a pod is removed", "container", id, "pod", meta.PodID)
	}
	t, err := m.tasks.Load(ctx, id, meta.Handler, meta.Streams)
	switch {
	case errors.Is(err, task.ErrHalfMade):
		m.log().Info("container was half-made; removed", "container", id)
		return m.discard(ctx, id)
	case err != nil:
		return fmt.Errorf("recover container %s: %w", id, err)
	case p == nil:
		if err := t.Delete(ctx); err != nil {
			return err
		}
		return m.discard(ctx, id)
	case meta.PodInit:
		p.mu.Lock()
		p.init = t
		p.mu.Unlock()
		return nil
	}
	d, err := digestOf(meta.Config.M, meta.PodID)
	if err != nil {
		return err
	}
	m.levels.Reserve(meta.Labels)
	p.adopt(&Container{p: p, meta: meta, digest: d, task: t, op: ctxlock.New()})
	m.events.restored(id, p, t)
	return nil
}

// discard removes what a container's creation left behind before there was a task.
func (m *Manager) discard(ctx context.Context, id string) error {
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

// settlePods ends what cannot go on: pods that were half-made, and all pods of another boot, whose namespaces are gone.
func (m *Manager) settlePods(ctx context.Context) {
	var wg sync.WaitGroup
	for _, p := range m.Pods() {
		s := p.state.Load()
		rebooted := s.State == Ready && s.BootID != m.tasks.BootID()
		if s.State != Creating && !rebooted {
			continue
		}
		wg.Go(func() {
			var err error
			if s.State == Creating {
				err = p.Remove(ctx)
			} else {
				err = p.Stop(ctx)
			}
			if err != nil {
				m.log().Error(err, "settle pod after a restart; the kubelet will try again", "pod", p.ID())
			}
		})
	}
	wg.Wait()
}
