// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// settle is what a daemon is given to come to rest after its pods have started: caches, garbage collection.
	settle = 10 * time.Second
	// idle is for how long it is then watched.
	idle = 20 * time.Second
)

// density measures what n pods cost, with each daemon alone on the machine, in turns.
func density(n int) func(context.Context, *bed) error {
	return func(ctx context.Context, b *bed) error {
		return b.alone(ctx, b.o.rounds, func(p *peer) error {
			return (&crowd{peer: p, n: n}).measure(ctx)
		})
	}
}

// crowd is a daemon with n pods.
type crowd struct {
	*peer
	n      int
	pods   []*pod
	before footprint // the daemon with no pods
	daemon footprint // that of the daemon's own process before
}

func (c *crowd) add(id, title, unit string, v float64) {
	c.bed.results.add(fmt.Sprintf("density/%d/%s", c.n, id), fmt.Sprintf("%s, %d pods", title, c.n), unit, c.name, v)
}

func (c *crowd) measure(ctx context.Context) error {
	for _, step := range []func(context.Context) error{c.warm, c.fill, c.weigh, c.lists, c.another, c.restart} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// warm runs a pod, so that what the first one costs for good is not counted as a pod's, and weighs the daemon without pods.
func (c *crowd) warm(ctx context.Context) error {
	d, _, err := c.launch(ctx, false, nil, payload...)
	if err != nil {
		return err
	}
	if err := c.removePod(ctx, d.id); err != nil {
		return err
	}
	if err := sleep(ctx, settle); err != nil {
		return err
	}
	c.before, c.daemon, err = c.footprints(ctx)
	return err
}

func (c *crowd) footprints(ctx context.Context) (all, daemon footprint, err error) {
	pids, err := c.processes(ctx)
	if err != nil {
		return all, daemon, err
	}
	pid, err := c.pid()
	return footprintOf(pids), footprintOf([]int{pid}), err
}

func (c *crowd) fill(ctx context.Context) error {
	c.pods = make([]*pod, c.n)
	began := time.Now()
	err := eightAtOnce(c.n, func(i int) (err error) {
		c.pods[i], _, err = c.launch(ctx, false, map[string]string{"CODE": strconv.Itoa(40 + i%50)}, payload...)
		return err
	})
	c.add("fill", "pod starts, 8 at a time, CNI", "/s", float64(c.n)/time.Since(began).Seconds())
	return err
}

func (c *crowd) weigh(ctx context.Context) error {
	if err := sleep(ctx, settle); err != nil {
		return err
	}
	pids, err := c.processes(ctx)
	if err != nil {
		return err
	}
	cpu, began := cpuOf(pids), time.Now()
	if err := sleep(ctx, idle); err != nil {
		return err
	}
	c.add("idle", "idle CPU", "ms/s", (cpuOf(pids)-cpu)/1e6/time.Since(began).Seconds())
	all, daemon, err := c.footprints(ctx)
	if err != nil {
		return err
	}
	more, n := all.minus(c.before), float64(c.n)
	c.add("pss", "memory per pod (PSS of runtime processes + daemon growth)", "MB", more.PSS/n)
	c.add("daemon", "daemon PSS", "MB", daemon.PSS)
	c.add("processes", "runtime processes per pod", "", float64(more.Processes)/n)
	c.add("threads", "runtime threads per pod", "", float64(more.Threads-daemon.minus(c.daemon).Threads)/n)
	c.add("fds", "descriptors per pod", "", float64(more.FDs)/n)
	return nil
}

// lists times the calls that a kubelet makes all the time.
func (c *crowd) lists(ctx context.Context) error {
	calls := []struct {
		name string
		call func() error
	}{
		{"ListPodSandbox", func() error {
			r, err := c.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
			return c.atLeast(len(r.GetItems()), err)
		}},
		{"ListContainers", func() error {
			r, err := c.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
			return c.atLeast(len(r.GetContainers()), err)
		}},
		{"ListContainerStats", func() error {
			r, err := c.runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{})
			return c.atLeast(len(r.GetStats()), err)
		}},
		{"ListPodSandboxStats", func() error {
			r, err := c.runtime.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{})
			return c.atLeast(len(r.GetStats()), err)
		}},
		{"ListPodSandboxMetrics", func() error {
			r, err := c.runtime.ListPodSandboxMetrics(ctx, &runtimeapi.ListPodSandboxMetricsRequest{})
			return c.atLeast(len(r.GetPodMetrics()), err)
		}},
	}
	for _, call := range calls {
		deadline := time.Now().Add(10 * time.Second) // some take seconds
		for i := 0; i < 20 && time.Now().Before(deadline); i++ {
			began := time.Now()
			if err := call.call(); err != nil {
				return fmt.Errorf("%s: %w", call.name, err)
			}
			c.add(call.name, call.name, "ms", float64(time.Since(began))/1e6)
			if err := sleep(ctx, 50*time.Millisecond); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *crowd) atLeast(n int, err error) error {
	if err == nil && n < c.n {
		err = fmt.Errorf("%d entries for %d pods", n, c.n)
	}
	return err
}

// another times single pods while the others are there.
func (c *crowd) another(ctx context.Context) error {
	for range 10 {
		d, took, err := c.launch(ctx, false, nil, payload...)
		if err != nil {
			return err
		}
		c.add("start", "one more pod start, CNI", "ms", float64(took.all())/1e6)
		if err := c.addStages(ctx, d, fmt.Sprintf("crowded/%d", c.n), fmt.Sprintf("%d pods", c.n)); err != nil {
			return err
		}
		if err := c.removePod(ctx, d.id); err != nil {
			return err
		}
	}
	return nil
}

// restart kills the daemon, ends some containers while there is none, starts it and waits until all states are right.
func (c *crowd) restart(ctx context.Context) error {
	if c.command == nil {
		return nil // not ours to kill
	}
	const ended = 5
	pids := make([]int, ended)
	for i := range ended {
		if err := c.pods[i].ready(ctx); err != nil {
			return err
		}
		var err error
		if pids[i], err = c.pidOf(ctx, c.pods[i].container); err != nil {
			return err
		}
	}
	if err := c.kill(); err != nil {
		return err
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGTERM); err != nil {
			return err
		}
	}
	for _, pid := range pids {
		if err := waitDead(pid); err != nil {
			return err
		}
	}
	began := time.Now()
	if err := c.peer.start(ctx); err != nil {
		return err
	}
	codes, words := 0, 0
	for {
		r, err := c.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
		if err != nil {
			return err
		}
		states := map[string]runtimeapi.ContainerState{}
		for _, s := range r.Containers {
			states[s.Id] = s.State
		}
		wrong := 0
		for i, d := range c.pods {
			want := runtimeapi.ContainerState_CONTAINER_RUNNING
			if i < ended {
				want = runtimeapi.ContainerState_CONTAINER_EXITED
			}
			if s, ok := states[d.container]; !ok || s != want {
				wrong++
			}
		}
		if wrong == 0 {
			c.add("restart", "restart after SIGKILL until all states are right", "ms", float64(time.Since(began))/1e6)
			break
		}
		if time.Since(began) > 30*time.Second {
			return fmt.Errorf("%d states are wrong 30 s after the restart", wrong)
		}
		time.Sleep(2 * time.Millisecond)
	}
	for i, d := range c.pods[:ended] {
		s, err := c.status(ctx, d.container)
		if err != nil {
			return err
		}
		if s.ExitCode == int32(40+i%50) {
			codes++
		}
		log, _ := os.ReadFile(d.log())
		if strings.HasSuffix(strings.TrimSpace(string(log)), "F bye") {
			words++
		}
	}
	c.add("codes", "exit codes right of 5 ended meanwhile", "", float64(codes))
	c.add("words", "last log lines there of these 5", "", float64(words))
	return nil
}

// waitDead waits until a process has ended; whether it has been reaped does not matter.
func waitDead(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 1000); n == 1 {
			return nil
		}
	}
	return fmt.Errorf("process %d does not end", pid)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
