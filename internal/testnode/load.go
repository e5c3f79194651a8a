// SPDX-License-Identifier: Apache-2.0

package testnode

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// load is what a daemon holds.
type load struct{ descriptors, goroutines int }

// What comes and goes by itself: connections of clients, with a few goroutines each, timers, a collection of garbage.
const (
	descriptorSlack = 10
	goroutineSlack  = 30
)

func (n *Node) load(ctx context.Context) (load, error) {
	r, err := n.Runtime.Status(ctx, true)
	if err != nil {
		return load{}, err
	}
	l := load{descriptors: Descriptors(n.Pid())}
	if err := json.Unmarshal([]byte(r.Info["goroutines"]), &l.goroutines); err != nil {
		return load{}, fmt.Errorf("verbose info has %q goroutines: %w", r.Info["goroutines"], err)
	}
	return l, nil
}

// idleAgain waits until the daemon, which has no pods any more, holds no more than the first one did when it began.
func (n *Node) idleAgain(ctx context.Context) error {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		now, err := n.load(ctx)
		if err == nil && now.descriptors <= n.idle.descriptors+descriptorSlack && now.goroutines <= n.idle.goroutines+goroutineSlack {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("it has %+v, and had %+v when it began (%v)", now, n.idle, err)
		}
	}
}
