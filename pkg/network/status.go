// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ReasonNotReady is the reason of a NetworkReady condition that is false. The kubelet and its users
// know it.
const ReasonNotReady = "NetworkPluginNotReady"

// statusTimeout bounds the STATUS verb, which should only look.
const statusTimeout = 15 * time.Second

// Status says whether pods can be attached; the CRI's NetworkReady condition. It returns what the
// last look found and never waits. After a failure the network stays ready for Options.StatusGrace,
// if it was before.
func (n *Network) Status() (ready bool, reason, message string) {
	err := n.health.verdict(time.Now(), n.opts.StatusGrace)
	if err == nil {
		return true, "", ""
	}
	return false, ReasonNotReady, fmt.Sprintf("Network plugin returns error: %v", err)
}

// health is what is known of the networks' state.
type health struct {
	mu      sync.Mutex
	err     error     // nil: fine
	since   time.Time // when err began, after the network was fine
	wasFine bool
}

// errUnasked is the state between a configuration and the first answer of its plug-ins.
var errUnasked = errors.New("the plug-ins have not told their status yet")

// unknown notes that there is a new configuration. Where none was fine before, it has to be asked
// first.
func (h *health) unknown(c *confSet) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.wasFine {
		return // the next look decides
	}
	if h.err = c.err(); h.err == nil {
		h.err = errUnasked
	}
}

// record notes the outcome of a look.
func (h *health) record(err error, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		h.err, h.wasFine = nil, true
		return
	}
	if h.err == nil {
		h.since = now
	}
	h.err = err
}

// verdict is the error to report at a time, given the grace.
func (h *health) verdict(now time.Time, grace time.Duration) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil && h.wasFine && now.Sub(h.since) < grace {
		return nil
	}
	return h.err
}

// watchHealth keeps the verdict fresh until ctx ends.
func (n *Network) watchHealth(ctx context.Context) {
	tick := time.NewTicker(n.opts.StatusInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-n.recheck:
		}
		err := n.look(ctx)
		if ctx.Err() == nil {
			n.health.record(err, time.Now())
		}
	}
}

// look asks whether a pod could be attached: there is a configuration, its plug-ins exist, and
// those that know the STATUS verb (CNI 1.1) say so.
func (n *Network) look(ctx context.Context) error {
	c := n.conf.Load()
	if err := c.err(); err != nil {
		return err
	}
	for _, net := range c.networks {
		if err := n.exec.findAll(net.list, n.opts.BinDirs); err != nil {
			return inNetwork(net.list.Name, err)
		}
		limit := min(statusTimeout, n.opts.Timeout)
		ctx, cancel := context.WithTimeoutCause(ctx, limit, timeoutError(limit))
		err := n.cni.GetStatusNetworkList(ctx, net.list)
		cancel()
		if err != nil {
			return inNetwork(net.list.Name, err)
		}
	}
	return nil
}
