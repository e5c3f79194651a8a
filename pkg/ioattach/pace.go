// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"time"

	"golang.org/x/sys/unix"
)

// Waking up for each write of a busy container would cost more than moving its bytes. So a
// source that was read a moment ago is not armed in the epoll set at once but when a short time
// has passed, in which its pipe fills; one that fills fast is armed at once. A quiet source is
// read the moment it speaks.
const (
	paceBusy = 3 * time.Millisecond // read again within this: busy
	paceWait = time.Millisecond     // the wait of a source with a 1 MiB pipe; smaller ones wait less
)

// pacer decides when a source is looked at again. Guarded by source.mu.
type pacer struct {
	last time.Time
	due  time.Time // guarded by Hub.paceMu
}

// wait returns how long to leave alone a source of which n bytes were just read.
func (p *pacer) wait(now time.Time, n, room int) time.Duration {
	busy := now.Sub(p.last) < paceBusy
	p.last = now
	if !busy || n >= room/4 || n >= laneBuf {
		return 0
	}
	return max(paceWait*time.Duration(room)/(1<<20), 20*time.Microsecond)
}

// paceFor arms s after d.
func (h *Hub) paceFor(s *source, now time.Time, d time.Duration) {
	due := now.Add(d)
	h.paceMu.Lock()
	defer h.paceMu.Unlock()
	s.rate.due = due
	h.paced = append(h.paced, s)
	if h.armed.IsZero() || due.Before(h.armed) {
		h.setTimerLocked(due, d)
	}
}

func (h *Hub) setTimerLocked(due time.Time, d time.Duration) {
	h.armed = due
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(max(d.Nanoseconds(), 1))}
	if err := unix.TimerfdSettime(h.timer, 0, &spec, nil); err != nil {
		panic(err) // EINVAL or EBADF: a slip of ours
	}
}

// tick arms the sources whose wait is over.
func (h *Hub) tick() {
	now := time.Now()
	var due []*source
	h.paceMu.Lock()
	rest, next := h.paced[:0], time.Time{}
	for _, s := range h.paced {
		if s.rate.due.After(now) {
			rest = append(rest, s)
			if next.IsZero() || s.rate.due.Before(next) {
				next = s.rate.due
			}
			continue
		}
		due = append(due, s)
	}
	clear(h.paced[len(rest):])
	h.paced = rest
	h.armed = time.Time{}
	if !next.IsZero() {
		h.setTimerLocked(next, next.Sub(now))
	}
	h.paceMu.Unlock()
	for _, s := range due {
		h.arm(s)
	}
}
