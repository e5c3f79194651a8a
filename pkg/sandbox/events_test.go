// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/embedcri/embedcri/pkg/task"
)

// statusOf is a task with a status.
type statusOf task.Status

func (s statusOf) Status() task.Status { return task.Status(s) }

func exited(source string) task.Status {
	return task.Status{State: task.Exited, FinishedAt: time.Now(), Exit: &task.Exit{Known: true, Source: source}}
}

// begin puts a container into h that has just been created.
func begin(h *events, id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := &life{pod: &Pod{}}
	h.lives[id] = l
	h.tellLocked(id, l, EventCreated)
}

// drain takes what waits for s.
func drain(s *Subscription) []string {
	var out []string
	for {
		e, _, ok := s.take()
		if !ok {
			return out
		}
		out = append(out, fmt.Sprint(e.ContainerID, e.Type))
	}
}

func TestEventsOfALife(t *testing.T) {
	created, starting, running := task.Status{State: task.Created}, task.Status{State: task.Starting}, task.Status{State: task.Running}
	for name, c := range map[string]struct {
		changes []task.Status
		want    []string
	}{
		"the usual":                  {[]task.Status{created, starting, running, exited("bpf"), {State: task.Removing}}, []string{"c0", "c1", "c2", "c3"}},
		"exit overtakes the start":   {[]task.Status{starting, exited("bpf"), exited("bpf")}, []string{"c0", "c1", "c2", "c3"}},
		"could not be started":       {[]task.Status{starting, exited("start")}, []string{"c0", "c2", "c3"}},
		"killed before it started":   {[]task.Status{exited("bpf")}, []string{"c0", "c2", "c3"}},
		"removed, its end not known": {nil, []string{"c0", "c3"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newEvents()
			h.recovered()
			s := h.subscribe()
			defer s.Close()
			begin(h, "c")
			for _, st := range c.changes {
				h.onChange("c", st)
				h.onChange("stranger", st) // a pod's init
			}
			h.deleted("c")
			h.deleted("c")
			h.onChange("c", exited("bpf"))
			if got := drain(s); !slices.Equal(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

// TestEventsOfADownTime: what ended while there was no daemon is told to each of those who come soon, once, and what had been told
// before is not told again.
func TestEventsOfADownTime(t *testing.T) {
	h, p := newEvents(), &Pod{}
	long := exited("bpf")
	long.FinishedAt = time.Now().Add(-time.Hour)
	h.onChange("boot", long) // of another boot: found out while it is loaded
	h.restored("boot", p, statusOf(long))
	h.restored("old", p, statusOf(long))
	h.restored("untold", p, statusOf(exited("bpf")))
	h.restored("runs", p, statusOf{State: task.Running})
	h.restored("ends", p, statusOf{State: task.Running})
	h.restored("ended", p, statusOf{State: task.Running})
	h.onChange("ended", exited("bpf"))
	h.restored("gone", p, statusOf(exited("bpf")))
	h.recovered()
	h.deleted("gone")
	h.onChange("ends", exited("bpf"))
	for range 2 {
		s := h.subscribe()
		if got, want := drain(s), []string{"boot2", "untold2", "ended2", "ends2"}; !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		h.onChange("ends", exited("bpf"))
		if got := drain(s); got != nil {
			t.Errorf("told again: %v", got)
		}
		s.Close()
	}
	h.replayUntil = time.Now()
	if got := drain(h.subscribe()); got != nil {
		t.Errorf("told to one who comes late: %v", got)
	}
}

// TestEventsFanOut: 10,000 events, 3 subscribers, one of them stuck: the two others get all, in order, and the third, after
// 10,000 more, the newest.
func TestEventsFanOut(t *testing.T) {
	h := newEvents()
	h.recovered()
	const containers, each = 2500, 4
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for range 2 {
		s := h.subscribe()
		wg.Go(func() {
			defer s.Close()
			next := map[string]EventType{}
			for n := range containers * each {
				e, lost, err := s.Next(ctx)
				if err != nil || lost != 0 {
					t.Errorf("event %d: %v, %d lost", n, err, lost)
					return
				}
				if e.Type != next[e.ContainerID] {
					t.Errorf("%s: %d before %d", e.ContainerID, e.Type, next[e.ContainerID])
				}
				next[e.ContainerID]++
			}
		})
	}
	stuck := h.subscribe()
	make10k := func() {
		var makers sync.WaitGroup
		for m := range 4 {
			makers.Go(func() {
				for i := m; i < containers; i += 4 {
					id := fmt.Sprint(i)
					begin(h, id)
					h.onChange(id, task.Status{State: task.Running})
					h.onChange(id, exited("bpf"))
					h.deleted(id)
				}
			})
		}
		makers.Wait()
	}
	make10k()
	wg.Wait()
	make10k()
	if n := len(stuck.queue) - stuck.head; n != maxQueued {
		t.Errorf("%d events wait for the stuck one, want %d", n, maxQueued)
	}
	if _, lost, _ := stuck.Next(ctx); lost != 2*containers*each-maxQueued {
		t.Errorf("%d lost, want %d", lost, 2*containers*each-maxQueued)
	}
	stuck.Close()
	if len(h.lives) != 0 || len(h.subs) != 0 {
		t.Errorf("%d lives, %d subscribers are left", len(h.lives), len(h.subs))
	}
	cancel()
	s := h.subscribe()
	defer s.Close()
	if _, _, err := s.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
