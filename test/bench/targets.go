// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"
	"strings"
)

// target is what embedcri is to reach: an absolute bound, a bound relative to containerd in the same run, or both.
type target struct {
	min, max       float64 // absolute; 0: none
	zero           bool    // exactly none
	ratio, atLeast float64 // of containerd's: at most, at least; 0: none
	over           float64 // at most so much more than the OCI runtime by itself; 0: none
}

// targets by measure. Where they come from is in docs/performance.md.
var targets = map[string]target{
	"density/50/pss":                   {max: 0.12},
	"density/50/daemon":                {max: 45},
	"density/50/processes":             {zero: true},
	"density/50/threads":               {zero: true},
	"start/host":                       {ratio: 0.4, over: 15},
	"start/cni":                        {ratio: 0.5},
	"parallel/start":                   {atLeast: 2},
	"stop/container":                   {ratio: 0.5},
	"stop/host":                        {max: 2},
	"remove/host":                      {max: 5},
	"remove/cni":                       {max: 5},
	"exit/event":                       {max: 1.5},
	"exit/status":                      {max: 3},
	"exec":                             {ratio: 0.6},
	"parallel/exec":                    {atLeast: 2},
	"logs/big":                         {min: 245},
	"logs/big/cpu":                     {max: 0.6},
	"logs/big/split":                   {zero: true},
	"density/50/ListContainerStats":    {max: 5},
	"density/50/ListPodSandboxStats":   {max: 5},
	"density/50/ListPodSandboxMetrics": {max: 20},
	"density/50/restart":               {max: 200},
	"density/50/codes":                 {min: 5},
	"density/50/words":                 {min: 5},
	"density/50/idle":                  {max: 2},
	"pull":                             {ratio: 1},
	"growth/pss":                       {max: 1.1},
	"growth/start":                     {max: 1.1},
	"growth/ListPodSandbox":            {max: 1.1},
	"growth/ListContainers":            {max: 1.1},
	"growth/ListContainerStats":        {max: 1.1},
	"growth/ListPodSandboxStats":       {max: 1.1},
	"growth/ListPodSandboxMetrics":     {max: 1.1},
}

func (t target) String() string {
	var s []string
	if t.zero {
		s = append(s, "0")
	}
	if t.max > 0 {
		s = append(s, fmt.Sprintf("≤ %g", t.max))
	}
	if t.min > 0 {
		s = append(s, fmt.Sprintf("≥ %g", t.min))
	}
	if t.ratio > 0 {
		s = append(s, fmt.Sprintf("≤ %g ×", t.ratio))
	}
	if t.atLeast > 0 {
		s = append(s, fmt.Sprintf("≥ %g ×", t.atLeast))
	}
	if t.over > 0 {
		s = append(s, fmt.Sprintf("≤ %s + %g", bare, t.over))
	}
	return strings.Join(s, ", ")
}

// met tells whether ours reaches the target. A relative one is missed if what it is relative to was not measured.
func (t target) met(ours, containerds, bares float64) bool {
	return (!t.zero || math.Abs(ours) < 0.005) &&
		(t.max == 0 || ours <= t.max) &&
		(t.min == 0 || ours >= t.min) &&
		(t.over == 0 || ours <= bares+t.over) &&
		(t.ratio == 0 || ours <= t.ratio*containerds) &&
		(t.atLeast == 0 || containerds > 0 && ours >= t.atLeast*containerds)
}
