// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"sync"
	"time"

	"github.com/embedcri/embedcri/pkg/task"
)

// EventType is what has happened, in the order of a life.
type EventType uint8

// The types of events.
const (
	EventCreated EventType = iota
	EventStarted
	EventStopped
	EventDeleted
)

// Event is one step in the life of a container, or of a pod: then ContainerID is the pod's id, as it is with runtimes that have a
// container for the pod itself, and the kubelet treats it alike. It says what to look at, not how it looks: whoever gets it reads
// the status then, which is at least as new.
type Event struct {
	ContainerID string
	Pod         *Pod
	Type        EventType
	At          time.Time // when the step became known here
}

const (
	// maxQueued is how many events wait for one subscriber at most; then the oldest go. What the kubelet loses so, its relist finds
	// later. An event is 56 bytes, so a stuck subscriber costs less than 1 MiB.
	maxQueued = 16 << 10
	// replayWindow is for how long after a start of the daemon a new subscriber is told of what ended while there was no daemon.
	// The kubelet is back within seconds (its clients redial with a back-off of 3 s at most).
	replayWindow = 5 * time.Minute
	// recentStop is how old a stop may be that the previous daemon has recorded, but perhaps not told.
	recentStop = time.Minute
)

// neverStarted is the task.Exit.Source of a container whose program the runtime could not start.
const neverStarted = "start"

// events fans out what happens to containers and pods. Its mutex is held for memory only, and nothing is called under it but
// atomic reads, so tasks may report with their lock held.
type events struct {
	mu    sync.Mutex
	lives map[string]*life // by id; those that may still have something to tell
	subs  map[*Subscription]struct{}

	recovering  bool
	early       map[string]struct{} // exits that came while recovering, before their container was known
	replay      []Event             // stops of the down-time
	replayUntil time.Time

	published, dropped uint64
}

// life is how much of a container's or pod's life has been told. Each type is told at most once, and never a lower one after a
// higher.
type life struct {
	pod      *Pod
	next     EventType // the lowest that has not been told
	starting bool      // its start was begun: an exit that overtakes the end of that was preceded by one
	restored bool      // made by a previous daemon
}

func newEvents() *events {
	return &events{lives: map[string]*life{}, subs: map[*Subscription]struct{}{}, recovering: true, early: map[string]struct{}{}}
}

// onChange is task.Options.OnChange. Tasks that are no container's (a pod's init) are not known here and tell nothing.
func (h *events) onChange(id string, s task.Status) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.lives[id]; l != nil {
		h.advanceLocked(id, l, s)
	} else if h.recovering && s.State == task.Exited {
		h.early[id] = struct{}{}
	}
}

func (h *events) advanceLocked(id string, l *life, s task.Status) {
	switch s.State {
	case task.Starting:
		l.starting = true
	case task.Running:
		h.tellLocked(id, l, EventStarted)
	case task.Exited:
		// A short program may end before its start is recorded. One that the runtime could not start never was.
		if l.starting && s.Exit != nil && s.Exit.Source != neverStarted {
			h.tellLocked(id, l, EventStarted)
		}
		h.tellLocked(id, l, EventStopped)
	}
}

// created tells of a new container, once it can be found by its id, and of what has happened to it since.
func (h *events) created(c *Container) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := &life{pod: c.p}
	h.lives[c.meta.ID] = l
	h.tellLocked(c.meta.ID, l, EventCreated)
	h.advanceLocked(c.meta.ID, l, c.task.Status())
}

// restored takes up a container that a previous daemon has made. It tells that it has stopped if nobody can have told before.
func (h *events) restored(id string, p *Pod, t interface{ Status() task.Status }) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := t.Status() // under the lock: what comes later comes through onChange
	l := &life{pod: p, restored: true, next: EventStarted}
	h.lives[id] = l
	_, early := h.early[id]
	switch s.State {
	case task.Starting:
		l.starting = true
	case task.Running:
		l.next = EventStopped
	case task.Exited:
		l.next = EventStopped
		if early || time.Since(s.FinishedAt) < recentStop {
			h.tellLocked(id, l, EventStopped)
		}
		l.next = EventDeleted
	case task.Removing:
		l.next = EventDeleted
	}
}

// restoredPod does the same for a pod.
func (h *events) restoredPod(p *Pod, s State) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := &life{pod: p, restored: true, next: EventStopped}
	switch s {
	case Creating:
		return // about to be removed; nobody was told of it
	case NotReady, Removing:
		l.next = EventDeleted
	}
	h.lives[p.meta.ID] = l
}

// recovered ends the recovery: from now on exits are those of known containers.
func (h *events) recovered() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.recovering, h.early = false, nil
	h.replayUntil = time.Now().Add(replayWindow)
}

// podReady, podStopped tell of a pod itself.
func (h *events) podReady(p *Pod) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := &life{pod: p}
	h.lives[p.meta.ID] = l
	h.tellLocked(p.meta.ID, l, EventCreated)
	h.tellLocked(p.meta.ID, l, EventStarted)
}

func (h *events) podStopped(p *Pod) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.lives[p.meta.ID]; l != nil {
		h.tellLocked(p.meta.ID, l, EventStopped)
	}
}

// deleted tells that a container or a pod is gone; with that its life ends.
func (h *events) deleted(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.lives[id]; l != nil {
		h.tellLocked(id, l, EventDeleted)
		delete(h.lives, id)
	}
}

func (h *events) tellLocked(id string, l *life, t EventType) {
	if t < l.next {
		return
	}
	l.next = t + 1
	e := Event{ContainerID: id, Pod: l.pod, Type: t, At: time.Now()}
	h.published++
	if l.restored && t == EventStopped && (h.recovering || e.At.Before(h.replayUntil)) {
		h.replay = append(h.replay, e)
	}
	for s := range h.subs {
		s.putLocked(e)
	}
}

// Subscription is one listener's queue. It is used by one goroutine, and must be closed.
type Subscription struct {
	h     *events
	queue []Event // from head on; guarded by h.mu
	head  int
	lost  uint64
	wake  chan struct{} // holds one value while there is something in the queue
}

// Subscribe returns a subscription to all that happens from now on, and soon after the daemon's start also to the stops of the time
// when there was none. A subscriber that does not keep up loses the oldest events; nobody else notices.
func (m *Manager) Subscribe() *Subscription { return m.events.subscribe() }

func (h *events) subscribe() *Subscription {
	s := &Subscription{h: h, wake: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.recovering && time.Now().After(h.replayUntil) {
		h.replay = nil
	}
	for _, e := range h.replay {
		if _, ok := h.lives[e.ContainerID]; ok { // else it is deleted by now, and whoever did that knows
			s.putLocked(e)
		}
	}
	h.subs[s] = struct{}{}
	return s
}

func (s *Subscription) putLocked(e Event) {
	if len(s.queue)-s.head >= maxQueued {
		s.queue[s.head] = Event{}
		s.head++
		s.lost++
		s.h.dropped++
	}
	if s.head > 0 && len(s.queue) == cap(s.queue) {
		n := copy(s.queue, s.queue[s.head:])
		clear(s.queue[n:])
		s.queue, s.head = s.queue[:n], 0
	}
	s.queue = append(s.queue, e)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Next returns the next event, waiting for one until ctx ends. lost is how many have been dropped before it in all.
func (s *Subscription) Next(ctx context.Context) (e Event, lost uint64, err error) {
	for {
		if e, lost, ok := s.take(); ok {
			return e, lost, nil
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return Event{}, 0, context.Cause(ctx)
		}
	}
}

func (s *Subscription) take() (Event, uint64, bool) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	if s.head == len(s.queue) {
		s.queue, s.head = s.queue[:0], 0
		return Event{}, 0, false
	}
	e := s.queue[s.head]
	s.queue[s.head] = Event{}
	s.head++
	return e, s.lost, true
}

// Close ends the subscription.
func (s *Subscription) Close() {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	delete(s.h.subs, s)
	s.queue = nil
}

// EventStats are counters for metrics.
type EventStats struct {
	Subscribers        int
	Published, Dropped uint64
}

// EventStats returns how many events there were, and how many a subscriber was too slow for.
func (m *Manager) EventStats() EventStats {
	m.events.mu.Lock()
	defer m.events.mu.Unlock()
	return EventStats{Subscribers: len(m.events.subs), Published: m.events.published, Dropped: m.events.dropped}
}
