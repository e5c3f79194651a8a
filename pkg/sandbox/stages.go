// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"maps"
	"sync"
	"time"
)

// Stage is how long one part of an operation took.
type Stage struct {
	Name string
	Took time.Duration
}

// StageTotal is what a stage of making pods has taken so far.
type StageTotal struct {
	Count uint64
	Took  time.Duration
}

// stageTotals adds up the stages of all pods. Their names are few: ours, and one for each plug-in and verb.
type stageTotals struct {
	mu     sync.Mutex
	totals map[string]StageTotal
}

func (t *stageTotals) add(stages []Stage) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.totals == nil {
		t.totals = map[string]StageTotal{}
	}
	for _, s := range stages {
		sum := t.totals[s.Name]
		t.totals[s.Name] = StageTotal{sum.Count + 1, sum.Took + s.Took}
	}
}

// StageTotals returns, by stage, what making pods has taken since the daemon began.
func (m *Manager) StageTotals() map[string]StageTotal {
	m.stages.mu.Lock()
	defer m.stages.mu.Unlock()
	return maps.Clone(m.stages.totals)
}
