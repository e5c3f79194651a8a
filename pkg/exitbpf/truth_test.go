// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Every exit of 100,000 processes with random codes and signals, a quarter of
// them with the leader leaving first, is what wait4 told their parent. Half are
// watched before they die, half are found only afterwards (an exec).
func TestTruth(t *testing.T) {
	total := 100_000
	if testing.Short() {
		total = 4000
	}
	if s := os.Getenv("EMBEDCRI_TRUTH"); s != "" {
		total, _ = strconv.Atoi(s)
	}
	tr := openNew(t)
	const batch = 1000
	var mu sync.Mutex
	var late []time.Duration
	t.Run("many", func(t *testing.T) {
		for _, held := range []bool{true, false} {
			t.Run(map[bool]string{true: "watched", false: "recent"}[held], func(t *testing.T) {
				t.Parallel()
				s := newSwarm(t)
				for i := range total / 2 / batch {
					d := checkBatch(t, tr, s, batch, uint32(i), held)
					mu.Lock()
					late = append(late, d...)
					mu.Unlock()
				}
			})
		}
	})
	st := tr.Stats()
	if st.Exits[SourceBPF]+st.Exits[SourceRecent] != uint64(total) || st.Exits[SourceRecent] < uint64(total/2) {
		t.Errorf("sources of %d exits: %v", total, st.Exits)
	}
	if st.Disagreed != 0 || st.LoopError != 0 || st.Slots != 0 || st.Kernel.RecentFailed != 0 {
		t.Errorf("%+v", st)
	}
	slices.Sort(late)
	t.Logf("time of death after the process' own last look at the clock: median %v, 99%% %v, worst %v; second opinions: %d",
		late[len(late)/2], late[len(late)*99/100], late[len(late)-1], st.Compared)
	// A thousand wake up at once and wait for a CPU in between, hence the median.
	// The bound is what is promised of a time of death; the wall clock may be slewed between the two readings.
	if late[0] < -5*time.Millisecond || late[len(late)/2] > 5*time.Millisecond {
		t.Errorf("earliest %v, median %v", late[0], late[len(late)/2])
	}
}

func checkBatch(t *testing.T, tr *Tracer, s swarm, n int, seed uint32, held bool) (late []time.Duration) {
	t.Helper()
	pids := s.fork(n, seed, held)
	watches := make([]*Watch, 0, n)
	for _, pid := range pids {
		watches = append(watches, watch(t, tr, newKey(), pid))
	}
	if held {
		s.die()
	}
	truths := s.wait()
	for _, w := range watches {
		e, err := awaitErr(t, w)
		want := truths[w.Pid()]
		if err != nil || e.Status != want.status {
			t.Errorf("process %d: %#x, %v; wait4 says %#x", w.Pid(), e.Status, err, want.status)
		}
		late = append(late, e.At.Sub(time.Unix(0, want.at)))
		if err := tr.Forget(w.Key()); err != nil {
			t.Error(err)
		}
	}
	return late
}
