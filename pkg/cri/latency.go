// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"sort"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
)

// LatencyBounds are the upper bounds of the latency buckets; a last one takes what is longer than all of them.
func LatencyBounds() []time.Duration { return append([]time.Duration(nil), latencyBounds[:]...) }

// From a snapshot's read to a pull that takes minutes, a factor of about three apart.
var latencyBounds = [...]time.Duration{
	300 * time.Microsecond, time.Millisecond, 3 * time.Millisecond, 10 * time.Millisecond, 30 * time.Millisecond,
	100 * time.Millisecond, 300 * time.Millisecond, time.Second, 3 * time.Second, 10 * time.Second, 30 * time.Second,
	100 * time.Second, 300 * time.Second,
}

// Latency is how long the calls of one method took since the daemon started.
type Latency struct {
	Method  string        `json:"method"`
	Count   uint64        `json:"count"`
	Errors  uint64        `json:"errors"`
	Total   time.Duration `json:"total"`   // nanoseconds in JSON
	Buckets []uint64      `json:"buckets"` // one for each of LatencyBounds and one more; not cumulative
}

// latencies has a histogram for each method. The map is filled once and only read after, so a call pays a few atomic additions and
// no lock.
type latencies struct{ methods map[string]*histogram }

type histogram struct {
	errors, total atomic.Uint64
	buckets       [len(latencyBounds) + 1]atomic.Uint64
}

func newLatencies(services ...*grpc.ServiceDesc) *latencies {
	l := &latencies{methods: make(map[string]*histogram)}
	for _, s := range services {
		for _, m := range s.Methods {
			l.methods[m.MethodName] = new(histogram)
		}
		for _, m := range s.Streams {
			l.methods[m.StreamName] = new(histogram)
		}
	}
	return l
}

func (l *latencies) observe(method string, took time.Duration, failed bool) {
	h := l.methods[method]
	if h == nil {
		return
	}
	h.buckets[sort.Search(len(latencyBounds), func(i int) bool { return took <= latencyBounds[i] })].Add(1)
	h.total.Add(uint64(took))
	if failed {
		h.errors.Add(1)
	}
}

// snapshot returns the methods that have been called, by name.
func (l *latencies) snapshot() []Latency {
	var out []Latency
	for name, h := range l.methods {
		s := Latency{Method: name, Errors: h.errors.Load(), Total: time.Duration(h.total.Load())}
		for i := range h.buckets {
			n := h.buckets[i].Load()
			s.Buckets = append(s.Buckets, n)
			s.Count += n
		}
		if s.Count > 0 {
			out = append(out, s)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Method < out[j].Method })
	return out
}
