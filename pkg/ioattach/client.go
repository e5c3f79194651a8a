// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"fmt"
	"io"
	"sync"
)

// chunk is a piece of output on its way to clients; b is shared between them.
type chunk struct {
	to io.Writer
	b  []byte
}

// client is an attached Client's bounded queue and the goroutine that empties it.
type client struct {
	Client
	hub      *Hub
	lossless bool          // an exec's client: its source waits instead of it being cut
	over     chan struct{} // closed when it is done; err is set then
	wake     chan struct{} // something to write, or the end

	mu       sync.Mutex
	err      error
	isOver   bool
	queue    []chunk
	size     int
	finished bool
	paused   []*source
}

func newClient(c Client, h *Hub, lossless bool) *client {
	return &client{Client: c, hub: h, lossless: lossless, over: make(chan struct{}), wake: make(chan struct{}, 1)}
}

// push queues b, which must not change any more. It says if s has to wait until there is room.
func (c *client) push(s *source, b []byte) (wait bool) {
	to := c.Stdout
	if s.idx == 1 {
		to = c.Stderr
	}
	if to == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isOver {
		return false
	}
	limit := c.hub.opts.ClientBuffer
	if c.size+len(b) > limit && !c.lossless {
		c.hub.stats.cutClients.Add(1)
		c.failLocked(ErrSlow)
		return false
	}
	c.queue = append(c.queue, chunk{to, b})
	c.size += len(b)
	c.signal()
	if c.lossless && c.size >= limit {
		c.paused = append(c.paused, s)
		return true
	}
	return false
}

func (c *client) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// finish ends the client behind what is queued.
func (c *client) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finished = true
	c.signal()
}

func (c *client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failLocked(err)
}

func (c *client) failLocked(err error) {
	if c.isOver {
		return
	}
	c.isOver, c.err, c.queue, c.size = true, err, nil, 0
	c.resumeLocked()
	close(c.over)
	c.signal()
}

// resumeLocked goes on reading what waited for this client.
func (c *client) resumeLocked() {
	if len(c.paused) == 0 {
		return
	}
	paused := c.paused
	c.paused = nil
	for _, s := range paused {
		c.hub.arm(s)
	}
}

// run writes to the client until it is over, and then closes its writers.
func (c *client) run() {
	defer func() {
		for _, w := range []io.WriteCloser{c.Stdout, c.Stderr} {
			if w != nil {
				_ = w.Close()
			}
		}
		c.fail(nil)
	}()
	for {
		next, ok := c.next()
		if !ok {
			return
		}
		if _, err := next.to.Write(next.b); err != nil {
			c.fail(fmt.Errorf("write to attached client: %w", err))
			return
		}
		c.mu.Lock()
		if !c.isOver {
			c.size -= len(next.b)
			if c.size <= c.hub.opts.ClientBuffer/2 {
				c.resumeLocked()
			}
		}
		c.mu.Unlock()
	}
}

// next waits for a chunk; false at the end.
func (c *client) next() (chunk, bool) {
	for {
		c.mu.Lock()
		switch {
		case c.isOver:
			c.mu.Unlock()
			return chunk{}, false
		case len(c.queue) > 0:
			k := c.queue[0]
			c.queue[0] = chunk{}
			c.queue = c.queue[1:]
			c.mu.Unlock()
			return k, true
		case c.finished:
			c.mu.Unlock()
			return chunk{}, false
		}
		c.mu.Unlock()
		<-c.wake
	}
}
