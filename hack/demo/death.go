// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testenv"
)

// processes shows what is in the cgroups of the pod's containers.
func (s *stage) processes() error {
	for _, id := range []string{s.web, s.job} {
		pid, err := s.pidOf(id)
		if err != nil {
			return err
		}
		if id == s.job {
			s.jobPid = pid
		}
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			return err
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return err
		}
		parent := ""
		for line := range strings.Lines(string(status)) {
			if v, ok := strings.CutPrefix(line, "PPid:"); ok {
				parent = strings.TrimSpace(v)
			}
		}
		say("pid %-7d parent %s (the daemon)  %.40s…", pid, parent, strings.ReplaceAll(strings.TrimRight(string(cmdline), "\x00"), "\x00", " "))
	}
	say("no shim, no conmon, no pause: 0 processes of the runtime for this pod")
	return nil
}

func (s *stage) pidOf(id string) (int, error) {
	st, err := s.runtime.ContainerStatus(s.ctx, id, true)
	if err != nil {
		return 0, err
	}
	var info struct{ Pid int }
	if err := json.Unmarshal([]byte(st.Info["info"]), &info); err != nil {
		return 0, fmt.Errorf("verbose status: %w", err)
	}
	return info.Pid, nil
}

// killAndExit kills the daemon, then tells the job to finish.
func (s *stage) killAndExit() error {
	pid := s.daemon.Process.Pid
	if err := s.daemon.Process.Kill(); err != nil {
		return err
	}
	_ = s.daemon.Wait() // killed
	s.daemon = nil
	say("kill -9 %d: the daemon is dead", pid)
	fd, err := unix.PidfdOpen(s.jobPid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/root/finish", s.jobPid), nil, 0o600); err != nil {
		return err
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(testenv.Slow(10*time.Second).Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return fmt.Errorf("the job does not end (%w)", err)
		}
		break
	}
	s.exitedAt = time.Now()
	say("the job has ended at %s, with nobody watching but the kernel", s.exitedAt.Format("15:04:05.000000"))
	time.Sleep(time.Second) // so that the time shown is plainly not the time of the restart
	return nil
}

func (s *stage) restart() error {
	begin := time.Now()
	if err := s.startDaemon(); err != nil {
		return err
	}
	cs, err := s.runtime.ListContainers(s.ctx, nil)
	if err != nil {
		return err
	}
	say("serving again after %v, at %s, with %d containers", since(begin), time.Now().Format("15:04:05.000000"), len(cs))
	return nil
}

// removeCgroupParent removes the parent of the pods' cgroups, which is empty.
func (s *stage) removeCgroupParent() error {
	if testenv.CgroupDriver() == "systemd" {
		return exec.Command("systemctl", "stop", s.cgroupParent()).Run()
	}
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + s.cgroupParent())
	for _, d := range append(dirs, "/sys/fs/cgroup"+s.cgroupParent()) {
		_ = os.Remove(d) // on v1 not every hierarchy has it
	}
	return nil
}

func (s *stage) showExit() error {
	st, err := s.runtime.ContainerStatus(s.ctx, s.job, false)
	if err != nil {
		return err
	}
	c := st.Status
	at := time.Unix(0, c.FinishedAt)
	say("state %s, exit code %s, finished at %s", c.State, green(fmt.Sprint(c.ExitCode)), green(at.Format("15:04:05.000000")))
	b, err := os.ReadFile(filepath.Join(s.podConfig.LogDirectory, "job.log"))
	if err != nil {
		return err
	}
	s.print(b)
	if c.ExitCode != 42 || !strings.Contains(string(b), "last words") {
		return errors.New("that is not what happened")
	}
	if d := s.exitedAt.Sub(at); d < 0 || d > testenv.Slow(100*time.Millisecond) {
		return fmt.Errorf("the time of death is off by %v", d)
	}
	web, err := s.runtime.ContainerStatus(s.ctx, s.web, false)
	if err != nil {
		return err
	}
	say("and the web server has not noticed: %s", web.Status.State)
	if web.Status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return errors.New("it should run")
	}
	return nil
}

// cleanUp removes all that the demo has made, whatever has failed before.
func (s *stage) cleanUp() error {
	if s.dir == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), testenv.Slow(time.Minute))
	defer cancel()
	s.ctx = ctx
	var errs []error
	if s.daemon == nil {
		errs = append(errs, s.startDaemon())
	}
	if s.pod != "" {
		errs = append(errs, s.runtime.StopPodSandbox(ctx, s.pod), s.runtime.RemovePodSandbox(ctx, s.pod))
	}
	if s.daemon != nil && s.daemon.Process != nil {
		errs = append(errs, s.daemon.Process.Signal(unix.SIGTERM))
		_ = s.daemon.Wait()
	}
	if out, err := exec.Command("bin/embedcri", s.args("cleanup")...).CombinedOutput(); err != nil {
		errs = append(errs, fmt.Errorf("embedcri cleanup: %w\n%s", err, out))
	}
	if s.registry != nil {
		errs = append(errs, s.registry.Close())
	}
	if s.forward != nil {
		errs = append(errs, os.WriteFile("/proc/sys/net/ipv4/ip_forward", s.forward, 0))
	}
	errs = append(errs, s.removeCgroupParent())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w\nleft for inspection: %s, %s", err, s.dir, s.state)
	}
	return errors.Join(os.RemoveAll(s.state), os.RemoveAll(s.dir))
}
