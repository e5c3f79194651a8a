// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/embedcri/embedcri/internal/ctxlock"
	"github.com/embedcri/embedcri/pkg/network"
	"github.com/embedcri/embedcri/pkg/task"
)

// Recover brings back what previous daemons have made. It has to be called once, before the first other call. When it returns,
// lists and states are right; what takes programs to be run is under way in the background, and calls that it concerns wait for
// it: what was being made when the daemon died is unmade, what was being unmade goes on. A record that cannot be read costs its pod
// or container, not the node: it is kept, and shown as unknown.
func (m *Manager) Recover(ctx context.Context) error {
	if err := m.recoverPods(); err != nil {
		return err
	}
	if err := m.recoverContainers(ctx); err != nil {
		return err
	}
	m.endLeftovers()
	m.settlePods()
	m.events.recovered()
	m.wg.Go(m.collectNetworks)
	m.wg.Go(m.reconcile)
	return nil
}

// endLeftovers hands all tasks to the task manager, which ends what is nobody's.
func (m *Manager) endLeftovers() {
	m.tasks.EndLeftovers(m.allTasks())
}

// allTasks returns the tasks of all containers and of the pods' own inits.
func (m *Manager) allTasks() []*task.Task {
	var tasks []*task.Task
	for _, c := range m.Containers() {
		tasks = append(tasks, c.task)
	}
	for _, p := range m.Pods() {
		p.mu.Lock()
		if p.init != nil {
			tasks = append(tasks, p.init)
		}
		p.mu.Unlock()
	}
	return tasks
}

// gcTimeout bounds the collection of networks, which the first new pod waits for.
const gcTimeout = 10 * time.Second

// collectNetworks has CNI free what no pod holds any more, such as addresses of pods whose records were lost. New pods, which it
// would not know of, are attached after it. What fails is tried again at the next start.
func (m *Manager) collectNetworks() {
	defer close(m.collected)
	ctx, cancel := context.WithTimeout(m.base, gcTimeout)
	defer cancel()
	var valid []*network.Attachment
	for _, p := range m.Pods() {
		if a := p.state.Load().Attachment; a != nil {
			valid = append(valid, a)
		}
	}
	if err := m.o.Network.GC(ctx, valid); err != nil && m.base.Err() == nil {
		m.log().Error(err, "collect garbage of the network")
	}
}

// networksCollected waits until collectNetworks is through.
func (m *Manager) networksCollected(ctx context.Context) error {
	select {
	case <-m.collected:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the network's garbage to be collected: %w", context.Cause(ctx))
	}
}

func (m *Manager) recoverPods() error {
	ids, err := m.podRecs.List()
	if err != nil {
		return err
	}
	for _, id := range ids {
		var s podState
		stateErr := m.podRecs.Get(id, stateRecord, &s)
		var meta podIdentity
		switch err := m.podRecs.Get(id, identityRecord, &meta); {
		case errdefs.IsNotFound(err) && errdefs.IsNotFound(stateErr):
			// Identity is on record before anything is made, so nothing was.
			if err := m.podRecs.Delete(id); err != nil {
				m.log().Error(err, "pod that was never recorded stays until the next start", "pod", id)
			}
			continue
		case err != nil:
			m.setAside(m.podRecs, id, identityRecord, err)
			meta = m.lostPodIdentity(id, s)
			s.Message = err.Error()
		}
		p, err := m.newPod(meta)
		if err != nil {
			return err
		}
		switch {
		case errdefs.IsNotFound(stateErr):
			// The daemon died before it was written, and nothing had been made; or the power went before it was on the disk, and
			// with it all but what CNI has on record, which is collected. Either way there is nothing to go on with.
			s = podState{State: Creating, Files: true, Pins: true, Init: true}
		case stateErr != nil:
			m.setAside(m.podRecs, id, stateRecord, stateErr)
			// As if everything had been made: unmaking is idempotent.
			s = podState{State: Unknown, Files: true, Pins: true, Init: true, Message: stateErr.Error()}
		case s.Message != "" && s.State == Ready:
			s.State = Unknown // nobody knows what it is: not ready, but it can be stopped
		}
		p.state.Store(&s)
		m.levels.Reserve(meta.Labels)
		m.events.restoredPod(p, s.State)
		m.pods[id] = p
		m.names[podKey(p.Config().GetMetadata())] = p
	}
	return nil
}

// recoverContainers loads all tasks side by side: it is mostly waiting for small files.
func (m *Manager) recoverContainers(ctx context.Context) error {
	ids, err := m.ctrRecs.List()
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(4 * runtime.GOMAXPROCS(0))
	for _, id := range ids {
		g.Go(func() error {
			if err := m.recoverContainer(ctx, id); err != nil {
				m.log().Error(err, "container is not recovered; its record stays", "container", id)
			}
			return nil // it costs this container, not the node
		})
	}
	return g.Wait()
}

func (m *Manager) recoverContainer(ctx context.Context, id string) error {
	var meta containerIdentity
	if err := m.ctrRecs.Get(id, identityRecord, &meta); err != nil {
		if errdefs.IsNotFound(err) {
			if m.pods[id] == nil { // else it is that pod's init, and goes with the pod
				m.discardLater(nil, id, m.o.Default)
			}
			return nil
		}
		m.setAside(m.ctrRecs, id, identityRecord, err)
		meta = m.lostContainerIdentity(id)
	}
	p := m.pods[meta.PodID]
	t, err := m.tasks.Load(ctx, id, meta.Handler, meta.Streams)
	switch {
	case errors.Is(err, task.ErrHalfMade) && meta.PodInit && p != nil:
		return nil // goes with the pod, which cannot be ready
	case errors.Is(err, task.ErrHalfMade):
		m.log().Info("container was half-made; it is removed", "container", id)
		m.discardLater(p, id, meta.Handler)
		return nil
	case err != nil:
		return err
	case p == nil:
		m.log().Info("container without a pod is removed", "container", id, "pod", meta.PodID)
		m.removeLater(t, meta)
		return nil
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

// settlePods ends what cannot go on: pods that were half-made, and all pods of another boot, whose namespaces are gone; and it goes
// on with what was being stopped or removed. They are not ready from now on; the rest happens in the background.
func (m *Manager) settlePods() {
	for _, p := range m.Pods() {
		s := p.state.Load()
		rebooted := s.State == Ready && s.BootID != m.tasks.BootID()
		var undo func(context.Context) error
		switch {
		case s.State == Creating, s.State == Removing, s.HalfMade:
			undo = p.Remove
		case s.State == Stopping:
			undo = p.Stop
		case rebooted:
			if err := p.apply(evStop); err != nil {
				m.log().Error(err, "settle pod of an earlier boot", "pod", p.ID())
			}
			undo = p.Stop
		default:
			continue
		}
		done := make(chan struct{})
		p.settling = done
		m.wg.Go(func() {
			defer close(done)
			if err := undo(m.base); err != nil && m.base.Err() == nil {
				m.log().Error(err, "settle pod after a restart; the kubelet will try again", "pod", p.ID())
			}
		})
	}
}

// awaitSettled waits for what recovery does about the pod with that key, if there is one.
func (m *Manager) awaitSettled(ctx context.Context, key string) error {
	m.mu.Lock()
	p := m.names[key]
	m.mu.Unlock()
	if p == nil || p.settling == nil {
		return nil
	}
	select {
	case <-p.settling:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
