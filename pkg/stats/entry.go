// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// minWindow is the least time that a rate is computed over, but for a target's first seconds: the kernel's counters move in ticks,
// and a shorter window shows those. Below firstWindow there is no rate.
const (
	minWindow   = time.Second
	firstWindow = 100 * time.Millisecond
)

// slowFresh is for how long what needs a walk is not measured again.
const slowFresh = 10 * time.Second

// entry is one target that somebody asks about.
type entry struct {
	c      *Collector
	target Target
	keep   bool
	asked  atomic.Int64 // when, in nanoseconds

	last  atomic.Pointer[Sample]
	layer atomic.Pointer[Layer]
	open  atomic.Pointer[Open]
	slow  chan struct{} // closed when layer and open have been looked at once

	mu    sync.Mutex // guards what is below; held while files are read
	files *fileSet
	links *links
	base  *Sample // what last's rate was computed against
	dead  bool
}

// measure takes a sample, unless there is one that is younger than fresh. Only the first error of a target is of interest to
// anyone, and it shows as the absence of a sample.
func (e *entry) measure(fresh time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	last := e.last.Load()
	if e.dead || last != nil && time.Since(last.At) < fresh {
		return
	}
	s := &Sample{At: time.Now(), Layer: e.layer.Load(), Open: e.open.Load()}
	if e.target.Cgroup != "" {
		buf := buffers.Get().(*[]byte)
		err := e.c.read(e.files, e.c.o.Root, e.target.Cgroup, *buf, s)
		buffers.Put(buf)
		switch {
		case errors.Is(err, errGone):
			e.closeLocked()
			e.last.Store(nil)
			return
		case err == nil:
			s.HasCgroup = true
			e.rateLocked(last, s)
			for i := range s.Devices {
				s.Devices[i].Name = e.c.devices.name(s.Devices[i].Major, s.Devices[i].Minor)
			}
		}
	}
	if e.target.NetNS != "" {
		s.Interfaces = e.interfacesLocked()
	}
	if s.HasCgroup || s.Interfaces != nil {
		e.last.Store(s)
	}
}

// rateLocked computes CPU time per second. base moves on only when last is minWindow behind, so that callers who come in quick
// succession do not shrink the window.
func (e *entry) rateLocked(last, s *Sample) {
	if last != nil && last.HasCgroup && (e.base == nil || s.At.Sub(last.At) >= minWindow) {
		e.base = last
	}
	if e.base == nil {
		return
	}
	window := s.At.Sub(e.base.At)
	if window < firstWindow || s.CPU.Usage < e.base.CPU.Usage {
		return
	}
	rate := uint64(float64(s.CPU.Usage-e.base.CPU.Usage) / window.Seconds())
	s.CPU.NanoCores = &rate
}

func (e *entry) interfacesLocked() []Interface {
	if e.links == nil {
		l, err := openLinks(e.target.NetNS)
		if err != nil {
			return nil
		}
		e.links = l
	}
	is, err := e.links.read()
	if err != nil || !e.keep {
		e.links.close()
		e.links = nil
	}
	return is
}

// measureSlow looks at what needs a walk, if that is due.
func (e *entry) measureSlow(ctx context.Context) {
	now := time.Now()
	if e.c.o.Layer != nil && e.target.Layer {
		if l := e.layer.Load(); l == nil || now.Sub(l.At) > slowFresh {
			if l, err := e.c.o.Layer(ctx, e.target.ID); err == nil {
				e.layer.Store(&l)
			}
		}
	}
	if e.target.Pid > 0 && e.target.Cgroup != "" {
		if o := e.open.Load(); o == nil || now.Sub(o.At) > slowFresh {
			if o, err := countOpen(e.target.Cgroup, e.target.Pid); err == nil {
				e.open.Store(o)
			}
		}
	}
}

// sample is the last one, with what was measured apart from it.
func (e *entry) sample() *Sample {
	s := e.last.Load()
	if s == nil {
		return nil
	}
	layer, open := e.layer.Load(), e.open.Load()
	if s.Layer == layer && s.Open == open {
		return s
	}
	c := *s
	c.Layer, c.Open = layer, open
	return &c
}

func (e *entry) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closeLocked()
}

func (e *entry) closeLocked() {
	e.dead = true
	e.files.close()
	if e.links != nil {
		e.links.close()
		e.links = nil
	}
}
