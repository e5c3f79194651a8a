// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// measureExec runs `true` in a container again and again, one at a time.
func measureExec(ctx context.Context, b *bed) error {
	alone, err := newBareRuntime(ctx, b)
	if err != nil {
		return err
	}
	pods, earlier := map[*peer]*pod{}, map[*peer]map[string]total{}
	for _, p := range b.peers {
		d, _, err := p.launch(ctx, true, nil, payload...)
		if err != nil {
			return err
		}
		pods[p] = d
		if p.name == "embedcri" { // execs of other groups, eight at a time, are no part of this
			if earlier[p], err = p.execStages(ctx); err != nil {
				return err
			}
		}
	}
	err = b.turns(ctx, 2*b.o.n, func(_ int, p *peer) error {
		if p == b.peers[0] {
			if err := alone.exec(ctx); err != nil {
				return err
			}
		}
		cpu, began := p.cpu(), time.Now()
		if err := p.execTrue(ctx, pods[p].container); err != nil {
			return err
		}
		b.results.ms("exec", "ExecSync true", p.name, time.Since(began))
		if p.command != nil {
			b.results.add("cpu/exec", "CPU of the runtime for ExecSync true", "ms", p.name, p.cpu()-cpu)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, p := range b.peers {
		if p.name != "embedcri" {
			continue
		}
		stages, err := p.execStages(ctx)
		if err != nil {
			return err
		}
		for _, name := range []string{"turn", "sub-cgroup", "runtime exec", "watch", "command", "output"} {
			t := stages[name].since(earlier[p][name])
			b.results.add("stages/exec/"+name, "exec: "+name+" (mean)", "ms", p.name, 1e3*t.sum/t.count)
		}
	}
	for p, d := range pods {
		if err := p.removePod(ctx, d.id); err != nil {
			return err
		}
	}
	return alone.remove(ctx)
}

func (p *peer) execTrue(ctx context.Context, container string) error {
	r, err := p.runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: container, Cmd: []string{"true"}, Timeout: 30})
	if err == nil && r.ExitCode != 0 {
		err = fmt.Errorf("true ends with %d: %s", r.ExitCode, r.Stderr)
	}
	return err
}
