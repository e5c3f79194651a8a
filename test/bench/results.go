// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// results are the samples by measure and peer, in the order in which they were first taken.
type results struct {
	Measures []*measure `json:"measures"`
	index    map[string]*measure
}

// measure is one row of the table.
type measure struct {
	ID     string               `json:"id"`
	Title  string               `json:"title"`
	Unit   string               `json:"unit"`
	Values map[string]*quantity `json:"values"` // by peer
	When   time.Time            `json:"when"`
	Where  string               `json:"where"`
	fresh  bool                 // taken in this run
}

// quantity is what was measured of one peer.
type quantity struct {
	Median  float64   `json:"median"`
	P90     float64   `json:"p90"`
	Samples []float64 `json:"samples"`
}

// median is not a number if nothing was measured.
func (q *quantity) median() float64 {
	if q == nil {
		return math.NaN()
	}
	return q.Median
}

func newResults() *results { return &results{index: map[string]*measure{}} }

// add takes one sample. Measures of an earlier run are replaced.
func (r *results) add(id, title, unit, peer string, v float64) {
	m := r.index[id]
	if m == nil {
		m = &measure{ID: id}
		r.index[id] = m
		r.Measures = append(r.Measures, m)
	}
	if !m.fresh {
		m.Title, m.Unit, m.Values, m.When, m.Where, m.fresh = title, unit, map[string]*quantity{}, time.Now().UTC(), where(), true
	}
	q := m.Values[peer]
	if q == nil {
		q = &quantity{}
		m.Values[peer] = q
	}
	q.Samples = append(q.Samples, v)
	q.Median, q.P90 = quantile(q.Samples, 0.5), quantile(q.Samples, 0.9)
}

// ms adds a duration in milliseconds.
func (r *results) ms(id, title, peer string, d time.Duration) {
	r.add(id, title, "ms", peer, float64(d)/float64(time.Millisecond))
}

func quantile(samples []float64, q float64) float64 {
	s := slices.Sorted(slices.Values(samples))
	at := q * float64(len(s)-1)
	low := int(at)
	if low+1 == len(s) {
		return s[low]
	}
	return s[low] + (s[low+1]-s[low])*(at-math.Floor(at))
}

// where is the machine.
func where() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return runtime.GOARCH
	}
	return fmt.Sprintf("%d CPUs, Linux %s, %s", runtime.NumCPU(), unix.ByteSliceToString(u.Release[:]), runtime.GOARCH)
}

func (r *results) load(file string) error {
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, r); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for _, m := range r.Measures {
		r.index[m.ID] = m
	}
	return nil
}

func (r *results) save(file string) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}

// peers lists who has been measured: embedcri first, then containerd, then the others.
func (r *results) peers(only func(*measure) bool) []string {
	seen := map[string]bool{}
	for _, m := range r.Measures {
		if only(m) {
			for p := range m.Values {
				seen[p] = true
			}
		}
	}
	rank := func(p string) int { return slices.Index([]string{"containerd", "embedcri"}, p) }
	var names []string
	for p := range seen {
		names = append(names, p)
	}
	slices.SortFunc(names, func(a, b string) int {
		if d := rank(b) - rank(a); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	return names
}
