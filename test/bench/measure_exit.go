// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// measureExit kills containers from outside and takes the time from the moment that the kernel says they are dead.
func measureExit(ctx context.Context, b *bed) error {
	return b.turns(ctx, b.o.n, func(i int, p *peer) error {
		d, _, err := p.launch(ctx, true, nil, payload...)
		if err != nil {
			return err
		}
		if i%2 == 0 {
			err = p.exitToEvent(ctx, d)
		} else {
			err = p.exitToStatus(ctx, d)
		}
		return errors.Join(err, p.removePod(ctx, d.id))
	})
}

func (p *peer) exitToEvent(ctx context.Context, d *pod) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	events, err := p.runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		return err
	}
	// The stream has to be open at the other end before the death: an event of another container says that it is.
	ready := make(chan error, 1)
	arrived := make(chan time.Time, 1)
	go func() {
		for {
			e, err := events.Recv()
			now := time.Now()
			if err != nil {
				ready <- err
				return
			}
			switch {
			case e.ContainerId == d.container && e.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT:
				arrived <- now
				return
			case e.ContainerId != d.container && e.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT:
				select {
				case ready <- nil:
				default:
				}
			}
		}
	}()
	if err := p.provoke(ctx, d, ready); err != nil {
		return err
	}
	died, err := p.killPayload(ctx, d)
	if err != nil {
		return err
	}
	select {
	case at := <-arrived:
		p.bed.results.ms("exit/event", "exit → STOPPED event", p.name, at.Sub(died))
		return nil
	case err := <-ready:
		return err
	}
}

// provoke creates containers until one of their events has arrived.
func (p *peer) provoke(ctx context.Context, d *pod, ready <-chan error) error {
	for i := range 20 {
		_, err := p.runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
			PodSandboxId: d.id, SandboxConfig: d.config, Config: withName(p.containerConfig(d.config, nil, payload), fmt.Sprintf("other-%d", i)),
		})
		if err != nil {
			return err
		}
		select {
		case err := <-ready:
			return err
		case <-time.After(500 * time.Millisecond):
		}
	}
	return errors.New("no event of a new container arrives")
}

func withName(c *runtimeapi.ContainerConfig, name string) *runtimeapi.ContainerConfig {
	c.Metadata.Name, c.LogPath = name, name+".log"
	return c
}

func (p *peer) exitToStatus(ctx context.Context, d *pod) error {
	died, err := p.killPayload(ctx, d)
	if err != nil {
		return err
	}
	for {
		s, err := p.status(ctx, d.container)
		now := time.Now()
		if err != nil {
			return err
		}
		if s.State == runtimeapi.ContainerState_CONTAINER_EXITED {
			if s.ExitCode != 128+int32(unix.SIGKILL) {
				return fmt.Errorf("exit code %d after SIGKILL", s.ExitCode)
			}
			p.bed.results.ms("exit/status", "exit → EXITED in ContainerStatus", p.name, now.Sub(died))
			return nil
		}
		if now.Sub(died) > 20*time.Second {
			return fmt.Errorf("still %v 20 s after its death", s.State)
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// killPayload kills a container's process and returns when it is dead, with the time.
func (p *peer) killPayload(ctx context.Context, d *pod) (time.Time, error) {
	pid, err := p.pidOf(ctx, d.container)
	if err != nil {
		return time.Time{}, err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return time.Time{}, fmt.Errorf("pidfd of %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return time.Time{}, err
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
		if n == 1 {
			return time.Now(), nil
		}
		if !errors.Is(err, unix.EINTR) {
			return time.Time{}, fmt.Errorf("process %d does not die: %w", pid, err)
		}
	}
}
