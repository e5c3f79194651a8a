// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"
)

// growth measures whether a pod costs more among many than among few. Only embedcri: what its peers do then is no target of ours.
func growth(few, many int) func(context.Context, *bed) error {
	return func(ctx context.Context, b *bed) error {
		for _, n := range []int{few, many} {
			err := b.alone(ctx, 1, func(p *peer) error {
				if strings.HasPrefix(p.name, "containerd") {
					return nil
				}
				return (&crowd{peer: p, n: n}).measure(ctx)
			})
			if err != nil {
				return err
			}
		}
		for _, of := range []struct {
			group, id, title string
			share            bool // the measure is of all pods together
		}{
			{"density", "pss", "memory per pod", false},
			{"density", "start", "one more pod start, CNI", false},
			{"crowded", "pod/CNI ADD bridge", "– CNI ADD bridge", false},
			{"crowded", "container/runtime create", "– runtime create", false},
			{"density", "ListPodSandbox", "ListPodSandbox, time per pod", true},
			{"density", "ListContainers", "ListContainers, time per pod", true},
			{"density", "ListContainerStats", "ListContainerStats, time per pod", true},
			{"density", "ListPodSandboxStats", "ListPodSandboxStats, time per pod", true},
			{"density", "ListPodSandboxMetrics", "ListPodSandboxMetrics, time per pod", true},
		} {
			b.results.compare(of.group, of.id, fmt.Sprintf("%s, with %d pods in times of that with %d", of.title, many, few), few, many, of.share)
		}
		return nil
	}
}

// compare adds how a measure of a group, density or crowded, grows from few to many pods.
func (r *results) compare(group, id, title string, few, many int, share bool) {
	a, b := r.index[fmt.Sprintf("%s/%d/%s", group, few, id)], r.index[fmt.Sprintf("%s/%d/%s", group, many, id)]
	if a == nil || b == nil {
		return
	}
	for peer, q := range b.Values {
		base := a.Values[peer].median()
		if share {
			base *= float64(many) / float64(few)
		}
		r.add("growth/"+id, title, "×", peer, q.Median/base)
	}
}
