// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"container/heap"
	"time"

	"golang.org/x/sys/unix"
)

// Waking up for each write of a busy container would cost more than moving its bytes. So a source that goes on writing is not
// armed in the epoll set but left alone for as long as it takes to fill most of a batch, by its rate since it was read before; then
// it is read without asking epoll first. A quiet source is read the moment it speaks.
const (
	paceBusy   = 3 * time.Millisecond   // output this soon after it was looked for again: busy
	paceMax    = 10 * time.Millisecond  // the longest wait, and so the latest that a line is logged
	paceClient = time.Millisecond       // the longest wait while somebody is attached
	paceMin    = 20 * time.Microsecond  // about what a timer costs
	paceFill   = laneBuf - laneBuf/4    // what a wait is for, in bytes; half the pipe of a smaller one
	paceStep   = 500 * time.Microsecond // the first wait; each may be twice the one before
)

// pacer decides when a source is looked at again. Guarded by source.mu.
type pacer struct {
	last  time.Time     // when it was read
	waits time.Duration // how long it has been left alone before it is read next
	due   time.Time     // guarded by Hub.paceMu
}

// wait returns how long to leave alone a source of which n bytes were just read, most at most.
func (p *pacer) wait(now time.Time, n, room int, most time.Duration) time.Duration {
	since, before := now.Sub(p.last), p.waits
	p.last, p.waits = now, 0
	if since > before+paceBusy || n >= laneBuf {
		return 0 // quiet; or so much that there is more
	}
	fill := min(paceFill, room/2)
	if d := since * time.Duration(fill) / time.Duration(max(n, 1)); d < most {
		most = d
	}
	// Its rate may rise while it waits: from a trickle to a flood in one step would stop the writer when its pipe is full.
	p.waits = max(min(most, max(2*before, paceStep)), paceMin)
	return p.waits
}

// pacedSources are those that wait, as a heap: the earliest due first.
type pacedSources []*source

func (p pacedSources) Len() int           { return len(p) }
func (p pacedSources) Less(i, j int) bool { return p[i].rate.due.Before(p[j].rate.due) }
func (p pacedSources) Swap(i, j int)      { p[i], p[j] = p[j], p[i] }
func (p *pacedSources) Push(s any)        { *p = append(*p, s.(*source)) }

func (p *pacedSources) Pop() any {
	last := len(*p) - 1
	s := (*p)[last]
	(*p)[last] = nil
	*p = (*p)[:last]
	return s
}

// paceFor has s read again after d.
func (h *Hub) paceFor(s *source, now time.Time, d time.Duration) {
	h.paceMu.Lock()
	defer h.paceMu.Unlock()
	s.rate.due = now.Add(d)
	heap.Push(&h.paced, s)
	if h.paced[0] == s {
		h.setTimerLocked(d)
	}
}

func (h *Hub) setTimerLocked(d time.Duration) {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(max(d.Nanoseconds(), 1))}
	if err := unix.TimerfdSettime(h.timer, 0, &spec, nil); err != nil {
		panic(err) // EINVAL or EBADF: a slip of ours
	}
}

// tick serves the source whose wait is over. The next one is another reader's, as this one may get stuck.
func (h *Hub) tick() {
	if s := h.nextDue(time.Now()); s != nil {
		h.serve(s)
	}
}

func (h *Hub) nextDue(now time.Time) *source {
	h.paceMu.Lock()
	defer h.paceMu.Unlock()
	var due *source
	if len(h.paced) > 0 && !h.paced[0].rate.due.After(now) {
		due = heap.Pop(&h.paced).(*source)
	}
	if len(h.paced) > 0 {
		h.setTimerLocked(h.paced[0].rate.due.Sub(now))
	}
	return due
}
