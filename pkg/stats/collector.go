// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"context"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/cgroup"
)

// Target is something to measure. What it says must not change for an ID.
type Target struct {
	ID     string
	Cgroup string // path below the root of its hierarchy; empty: none of its own
	NetNS  string // path of a pinned network namespace; empty: none of its own
	Pid    int    // of init, whose limits are told; 0: descriptors are not counted
	Layer  bool   // has a writable layer
}

// Options are for New. The zero value is usable.
type Options struct {
	// Layer tells what a container has written; nil: nobody knows. It may be slow the first time, but not later.
	Layer func(ctx context.Context, id string) (Layer, error)

	Interval time.Duration // of the background loop; 0: 5 s
	Linger   time.Duration // how long a target is measured after it was last asked for; 0: 1 min
	Fresh    time.Duration // a younger sample is not taken again; 0: 250 ms
	Budget   time.Duration // that a call may spend on refreshing; 0: 3 ms
	MaxFiles int           // descriptors to keep; 0: a quarter of the process' limit

	Root string // of the cgroup hierarchies; empty: where they are mounted
}

const (
	defaultInterval = 5 * time.Second
	defaultLinger   = time.Minute // more than twice the kubelet's and Prometheus' usual 10 to 30 s
	defaultFresh    = 250 * time.Millisecond
	defaultBudget   = 3 * time.Millisecond
	firstWait       = 200 * time.Millisecond // for what needs a walk, when a target is seen for the first time
	filesPerEntry   = 24                     // descriptors that an entry keeps, at most
)

// Collector measures what is asked for. Its methods may be called by many goroutines at once.
type Collector struct {
	o       Options
	read    reader
	devices deviceNames
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu      sync.Mutex
	entries map[string]*entry
	looping bool
}

// New returns a Collector that does nothing until it is asked.
func New(o Options) *Collector {
	setDefault := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	setDefault(&o.Interval, defaultInterval)
	setDefault(&o.Linger, defaultLinger)
	setDefault(&o.Fresh, defaultFresh)
	setDefault(&o.Budget, defaultBudget)
	if o.MaxFiles == 0 {
		o.MaxFiles = 4096
		var l unix.Rlimit
		if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) == nil {
			o.MaxFiles = int(min(l.Cur/4, 1<<20))
		}
	}
	c := &Collector{o: o, read: defaultReader(), entries: map[string]*entry{}}
	if c.o.Root == "" {
		c.o.Root = cgroup.Root
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// Close ends the loop and closes all files.
func (c *Collector) Close() {
	c.cancel()
	c.wg.Wait()
	c.mu.Lock()
	es := c.entries
	c.entries = map[string]*entry{}
	c.mu.Unlock()
	for _, e := range es {
		e.close()
	}
}

// Get returns the latest sample of each target, in their order; nil for one that cannot be measured, because it is gone for
// example. What has never been measured is measured now, with all processors; of the rest as much as fits into the budget.
func (c *Collector) Get(targets []Target) []*Sample {
	now := time.Now()
	es := make([]*entry, len(targets))
	var first []*entry
	c.mu.Lock()
	for i, t := range targets {
		e := c.entries[t.ID]
		if e == nil {
			keep := (len(c.entries)+1)*filesPerEntry <= c.o.MaxFiles
			e = &entry{c: c, target: t, keep: keep, files: newFileSet(keep), slow: make(chan struct{})}
			c.entries[t.ID] = e
			first = append(first, e)
		}
		e.asked.Store(now.UnixNano())
		es[i] = e
	}
	if len(first) > 0 && !c.looping && c.ctx.Err() == nil {
		c.looping = true
		c.wg.Go(c.loop)
	}
	c.mu.Unlock()

	if len(first) > 0 {
		c.begin(first)
	}
	deadline := now.Add(c.o.Budget)
	out := make([]*Sample, len(es))
	for i, e := range es {
		if s := e.last.Load(); s == nil || now.Sub(s.At) > c.o.Fresh && time.Now().Before(deadline) {
			e.measure(c.o.Fresh)
		}
		out[i] = e.sample()
	}
	return out
}

// begin measures new entries for the first time.
func (c *Collector) begin(es []*entry) {
	var g errgroup.Group
	g.SetLimit(runtime.NumCPU())
	done := make(chan struct{})
	c.wg.Go(func() { // what needs a walk goes on in the background if it takes long
		defer close(done)
		for _, e := range es {
			e.measureSlow(c.ctx)
			close(e.slow)
		}
	})
	for _, e := range es {
		g.Go(func() error { e.measure(c.o.Fresh); return nil })
	}
	_ = g.Wait()
	select {
	case <-done:
	case <-time.After(firstWait):
	}
}

// Forget drops a target and closes what is open of it. It has to be called when the target's network namespace is to go, after its
// pin is removed: an open socket would keep it alive.
func (c *Collector) Forget(id string) {
	c.mu.Lock()
	e := c.entries[id]
	delete(c.entries, id)
	c.mu.Unlock()
	if e != nil {
		e.close()
	}
}

// loop measures all targets each interval, until nobody asks any more.
func (c *Collector) loop() {
	tick := time.NewTicker(c.o.Interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-c.ctx.Done():
			return
		}
		es := c.sweep()
		if es == nil {
			return
		}
		for _, e := range es {
			if c.ctx.Err() != nil {
				return
			}
			e.measure(c.o.Interval / 2) // somebody may just have
			select {
			case <-e.slow:
				e.measureSlow(c.ctx)
			default: // the first look is still under way
			}
		}
	}
}

// sweep drops what is gone or not asked for, and returns the rest; nil ends the loop.
func (c *Collector) sweep() []*entry {
	oldest := time.Now().Add(-c.o.Linger).UnixNano()
	c.mu.Lock()
	var drop, stay []*entry
	for id, e := range c.entries {
		if e.asked.Load() < oldest {
			delete(c.entries, id)
			drop = append(drop, e)
			continue
		}
		stay = append(stay, e)
	}
	if len(stay) == 0 {
		c.looping = false
	}
	c.mu.Unlock()
	for _, e := range drop {
		e.close()
	}
	return stay
}

// Targets returns how many targets are being measured.
func (c *Collector) Targets() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.entries)
}
