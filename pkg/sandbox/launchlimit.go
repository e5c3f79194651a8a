// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"container/list"
	"context"
	"fmt"
	"sync"
)

// launchLimit bounds how many execs are being launched at once on the node. Launching one costs three processes and some 20 ms of
// CPU time, and probes come in swarms: without a bound they all get slow together, and then fail together.
//
// It is fair between pods: a free slot goes to the pods that wait in turn, whatever number of launches each has waiting, and one
// pod never has more than half of the slots, so that a container in which launches hang does not stop the probes of all others.
//
// Only the launch counts, not the command: a command may run for as long as it likes.
type launchLimit struct {
	slots, perPod int

	mu   sync.Mutex
	busy int
	pods map[string]*podLaunches // those that launch or wait
	turn list.List               // of *podLaunches that wait, the one whose turn is next first
}

// podLaunches is what one pod has under way.
type podLaunches struct {
	busy    int
	waiting list.List     // of chan struct{}, closed when the slot is granted
	turn    *list.Element // in launchLimit.turn; nil if nothing waits
}

func newLaunchLimit(slots int) *launchLimit {
	return &launchLimit{slots: slots, perPod: max(1, slots/2), pods: map[string]*podLaunches{}}
}

// acquire waits for a slot. release has to be called once, when the launch is over. The error wraps ctx's cause.
func (l *launchLimit) acquire(ctx context.Context, pod string) (release func(), err error) {
	l.mu.Lock()
	p := l.pods[pod]
	if p == nil {
		p = &podLaunches{}
		l.pods[pod] = p
	}
	granted := make(chan struct{})
	w := p.waiting.PushBack(granted)
	if p.turn == nil {
		p.turn = l.turn.PushBack(p)
	}
	l.grantLocked()
	l.mu.Unlock()

	release = func() { l.release(pod, p) }
	select {
	case <-granted:
		return release, nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	select {
	case <-granted: // at the same moment
		l.mu.Unlock()
		release()
	default:
		p.waiting.Remove(w)
		l.settleLocked(pod, p)
		l.mu.Unlock()
	}
	return nil, fmt.Errorf("wait for other commands to be launched: %w", context.Cause(ctx))
}

func (l *launchLimit) release(pod string, p *podLaunches) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy--
	p.busy--
	l.grantLocked()
	l.settleLocked(pod, p)
}

// grantLocked gives free slots to those whose turn it is.
func (l *launchLimit) grantLocked() {
	for e := l.turn.Front(); e != nil && l.busy < l.slots; {
		p, next := e.Value.(*podLaunches), e.Next()
		if p.busy >= l.perPod {
			e = next
			continue
		}
		close(p.waiting.Remove(p.waiting.Front()).(chan struct{}))
		p.busy++
		l.busy++
		if p.waiting.Len() == 0 {
			l.turn.Remove(e)
			p.turn = nil
			e = next
			continue
		}
		l.turn.MoveToBack(e)
		e = l.turn.Front()
	}
}

// settleLocked takes a pod that no longer waits out of the turn, and forgets one that has nothing under way.
func (l *launchLimit) settleLocked(pod string, p *podLaunches) {
	if p.waiting.Len() > 0 {
		return
	}
	if p.turn != nil {
		l.turn.Remove(p.turn)
		p.turn = nil
	}
	if p.busy == 0 {
		delete(l.pods, pod)
	}
}
