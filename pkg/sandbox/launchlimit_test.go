// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestLaunchLimitIsFair: a pod that wants one launch gets it in its turn, before most of another pod's thousand.
func TestLaunchLimitIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLaunchLimit(8)
		var mu sync.Mutex
		var order []string
		var wg sync.WaitGroup
		busy, most := map[string]int{}, map[string]int{}
		launch := func(pod string) {
			wg.Go(func() {
				release, err := l.acquire(t.Context(), pod)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				order = append(order, pod)
				busy[pod]++
				busy["all"]++
				most[pod], most["all"] = max(most[pod], busy[pod]), max(most["all"], busy["all"])
				mu.Unlock()
				time.Sleep(time.Second)
				mu.Lock()
				busy[pod]--
				busy["all"]--
				mu.Unlock()
				release()
			})
			synctest.Wait() // the calls come in this order
		}
		for range 1000 {
			launch("greedy")
		}
		for range 20 {
			launch("modest")
		}
		launch("single")
		wg.Wait()
		last := map[string]int{}
		for i, pod := range order {
			last[pod] = i
		}
		// When the others come, 4 of the greedy pod's are under way; then 4 of the modest one; from then on the three take turns.
		if last["single"] > 16 || last["modest"] > 60 {
			t.Errorf("the single launch came as number %d, the last of 20 as number %d", last["single"], last["modest"])
		}
		if len(order) != 1021 || most["greedy"] != 4 || most["all"] != 8 {
			t.Errorf("%d launches, up to %d of the greedy pod and %d in all at once; want 1021, 4, 8", len(order), most["greedy"], most["all"])
		}
		if len(l.pods) != 0 || l.turn.Len() != 0 || l.busy != 0 {
			t.Errorf("left: %d pods, %d in turn, %d busy", len(l.pods), l.turn.Len(), l.busy)
		}
	})
}

// TestLaunchLimitGivesUp: a caller that leaves frees its place, also if it leaves in the moment of its turn.
func TestLaunchLimitGivesUp(t *testing.T) {
	l := newLaunchLimit(2)
	hold, err := l.acquire(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	gone := errors.New("client is gone")
	for range 200 {
		ctx, cancel := context.WithCancelCause(t.Context())
		wg.Go(func() {
			release, err := l.acquire(ctx, "a")
			if err == nil {
				release()
			} else if !errors.Is(err, gone) {
				t.Error(err)
			}
		})
		wg.Go(func() { cancel(gone) })
	}
	hold()
	wg.Wait()
	if len(l.pods) != 0 || l.turn.Len() != 0 || l.busy != 0 {
		t.Errorf("left: %d pods, %d in turn, %d busy", len(l.pods), l.turn.Len(), l.busy)
	}
}
