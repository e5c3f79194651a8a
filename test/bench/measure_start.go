// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// payload is what containers run that only have to be there: it ends with status 0 on SIGTERM.
var payload = []string{"/bin/wait"}

// measureStart takes a pod through its whole life, one at a time.
func measureStart(ctx context.Context, b *bed) error {
	alone, err := newBareRuntime(ctx, b)
	if err != nil {
		return err
	}
	for _, network := range []string{"host", "cni"} {
		err := b.turns(ctx, b.o.n, func(i int, p *peer) error {
			if network == "host" && p == b.peers[0] {
				if err := alone.start(ctx, i); err != nil {
					return err
				}
			}
			return p.lifeOfPod(ctx, network)
		})
		if err != nil {
			return err
		}
	}
	return alone.remove(ctx)
}

func (p *peer) lifeOfPod(ctx context.Context, network string) error {
	r, cpu := p.bed.results, p.cpu()
	d, took, err := p.launch(ctx, network == "host", nil, payload...)
	if err != nil {
		return err
	}
	title := map[string]string{"host": "host network", "cni": "CNI"}[network]
	r.ms("start/"+network, "pod start, "+title+", until running", p.name, took.all())
	r.ms("start/"+network+"/run", "– RunPodSandbox", p.name, took.run)
	r.ms("start/"+network+"/create", "– CreateContainer", p.name, took.create)
	r.ms("start/"+network+"/start", "– StartContainer", p.name, took.start)
	if err := d.ready(ctx); err != nil {
		return err
	}
	if err := p.addStages(ctx, d, "stages/"+network, title); err != nil {
		return err
	}

	step := func(id, what string, call func() error) {
		if err != nil {
			return
		}
		began := time.Now()
		if err = call(); err == nil {
			r.ms(id, what, p.name, time.Since(began))
		}
	}
	if network == "host" {
		step("stop/container", "StopContainer", func() error {
			_, err := p.runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: d.container, Timeout: 10})
			return err
		})
	} else if _, err := p.runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: d.container, Timeout: 10}); err != nil {
		return err
	}
	step("stop/"+network, "StopPodSandbox, "+title, func() error {
		_, err := p.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: d.id})
		return err
	})
	step("remove/"+network, "RemovePodSandbox, "+title, func() error {
		_, err := p.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: d.id})
		return err
	})
	if err == nil && p.command != nil {
		r.add("cpu/"+network, "CPU of the runtime for all of it, "+title, "ms", p.name, p.cpu()-cpu)
	}
	return err
}

// addStages adds where the time went in the start of a pod, as the runtime tells it.
func (p *peer) addStages(ctx context.Context, d *pod, id, title string) error {
	ofPod, ofContainer, err := p.stagesOf(ctx, d)
	if err != nil {
		return err
	}
	for i, stages := range [][]stage{ofPod, ofContainer} {
		what := []string{"pod", "container"}[i]
		for _, s := range stages {
			took, err := time.ParseDuration(s.Took)
			if err != nil {
				return err
			}
			p.bed.results.ms(id+"/"+what+"/"+s.Name, what+": "+s.Name+", "+title, p.name, took)
		}
	}
	return nil
}

// measureParallel starts pods and execs eight at a time.
func measureParallel(ctx context.Context, b *bed) error {
	const rounds, pods, execs = 3, 32, 160
	alone, err := newBareRuntime(ctx, b)
	if err != nil {
		return err
	}
	err = b.turns(ctx, rounds, func(_ int, p *peer) error {
		if p == b.peers[0] {
			began := time.Now()
			if err := eightAtOnce(execs, func(int) error { return alone.run(ctx, "exec", alone.id, "true") }); err != nil {
				return err
			}
			b.results.add("parallel/exec", "ExecSync true, 8 at a time", "/s", bare, execs/time.Since(began).Seconds())
		}
		started := make([]*pod, pods)
		began := time.Now()
		err := eightAtOnce(pods, func(i int) (err error) {
			started[i], _, err = p.launch(ctx, false, nil, payload...)
			return err
		})
		if err != nil {
			return err
		}
		p.bed.results.add("parallel/start", "pod starts, 8 at a time, CNI", "/s", p.name, pods/time.Since(began).Seconds())

		began = time.Now()
		err = eightAtOnce(execs, func(i int) error { return p.execTrue(ctx, started[i%pods].container) })
		if err != nil {
			return err
		}
		p.bed.results.add("parallel/exec", "ExecSync true, 8 at a time", "/s", p.name, execs/time.Since(began).Seconds())

		began = time.Now()
		if err := eightAtOnce(pods, func(i int) error { return p.removePod(ctx, started[i].id) }); err != nil {
			return err
		}
		p.bed.results.add("parallel/remove", "pods stopped and removed, 8 at a time, CNI", "/s", p.name, pods/time.Since(began).Seconds())
		return nil
	})
	if err != nil {
		return err
	}
	return alone.remove(ctx)
}
