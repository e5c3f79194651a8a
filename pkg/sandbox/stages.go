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

// stageTotals adds up the stages of all pods, containers or execs. Their names are few: ours, and one for each plug-in and verb.
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

func (t *stageTotals) read() map[string]StageTotal {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.totals)
}

// PodStages returns, by stage, what making pods has taken since the daemon began.
func (m *Manager) PodStages() map[string]StageTotal { return m.podStages.read() }

// ContainerStages is the same for making containers.
func (m *Manager) ContainerStages() map[string]StageTotal { return m.ctrStages.read() }

// ExecStages is the same for commands that were run to their end (ExecSync).
func (m *Manager) ExecStages() map[string]StageTotal { return m.execStages.read() }
