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
			id, title string
			share     bool // the measure is of all pods together
		}{
			{"pss", "memory per pod", false},
			{"start", "one more pod start, CNI", false},
			{"ListPodSandbox", "ListPodSandbox, time per pod", true},
			{"ListContainers", "ListContainers, time per pod", true},
			{"ListContainerStats", "ListContainerStats, time per pod", true},
			{"ListPodSandboxStats", "ListPodSandboxStats, time per pod", true},
			{"ListPodSandboxMetrics", "ListPodSandboxMetrics, time per pod", true},
		} {
			b.results.compare(of.id, fmt.Sprintf("%s, with %d pods in times of that with %d", of.title, many, few), few, many, of.share)
		}
		return nil
	}
}

// compare adds how the measure of a density grows from few to many pods.
func (r *results) compare(id, title string, few, many int, share bool) {
	a, b := r.index[fmt.Sprintf("density/%d/%s", few, id)], r.index[fmt.Sprintf("density/%d/%s", many, id)]
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
