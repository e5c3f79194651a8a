// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	criclient "k8s.io/cri-client/pkg"

	"github.com/embedcri/embedcri/internal/testenv"
	"github.com/embedcri/embedcri/internal/testregistry"
)

// stage is all that the demo has made.
type stage struct {
	ctx      context.Context
	dir      string // on disk: images, logs
	state    string // on tmpfs
	forward  []byte // ip_forward as it was; the bridge plug-in turns it on
	registry *testregistry.Registry
	daemon   *exec.Cmd
	runtime  internalapi.RuntimeService
	images   internalapi.ImageManagerService

	podConfig *runtimeapi.PodSandboxConfig
	pod       string
	web, job  string // containers
	jobPid    int
	exitedAt  time.Time
}

func (s *stage) socket() string { return filepath.Join(s.state, "embedcri.sock") }

func (s *stage) args(command string) []string {
	return []string{command,
		"-socket", s.socket(), "-root", filepath.Join(s.dir, "root"), "-state", s.state, "-bpf", "/sys/fs/bpf/" + filepath.Base(s.state),
		"-runtime", tool("runc"), "-cni-bin-dirs", tool("cni"), "-cni-conf-dir", filepath.Join(s.dir, "cni"),
		"-cgroup-driver", testenv.CgroupDriver(), "-cgroup-parent", s.cgroupParent(), "-config", filepath.Join(s.dir, "config.toml"),
	}
}

func (s *stage) cgroupParent() string {
	if testenv.CgroupDriver() == "systemd" {
		return strings.ReplaceAll(filepath.Base(s.state), "-", "_") + ".slice"
	}
	return "/" + filepath.Base(s.state)
}

func tool(name string) string {
	p, err := filepath.Abs(filepath.Join("bin", "tools", name))
	if err != nil {
		panic(err) // the working directory is gone
	}
	return p
}

// start serves images and runs a daemon whose every path is its own.
func (s *stage) start() error {
	var err error
	if s.forward, err = os.ReadFile("/proc/sys/net/ipv4/ip_forward"); err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp("/var/tmp", "embedcri-demo-"); err != nil {
		return err
	}
	s.state = filepath.Join("/run", filepath.Base(s.dir))
	bridge := fmt.Sprintf("ecdemo%d", os.Getpid()%100000)
	config := fmt.Sprintf("[network.default_network]\nenabled = true\nbridge = %q\nsubnets = [\"10.199.%d.0/24\"]\n", bridge, os.Getpid()%256)
	if err := os.WriteFile(filepath.Join(s.dir, "config.toml"), []byte(config), 0o600); err != nil {
		return err
	}
	if s.registry, err = testregistry.Serve(testregistry.Options{}); err != nil {
		return err
	}
	say("registry with a busybox and a small web server: %s", s.registry.Addr)
	if err := s.startDaemon(); err != nil {
		return err
	}
	v, err := s.runtime.Version(s.ctx, "")
	if err != nil {
		return err
	}
	say("%s %s, pid %d, serves CRI %s on %s", v.RuntimeName, v.RuntimeVersion, s.daemon.Process.Pid, v.RuntimeApiVersion, s.socket())
	return nil
}

func (s *stage) startDaemon() error {
	log, err := os.OpenFile(filepath.Join(s.dir, "daemon.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s.daemon = exec.Command("bin/embedcri", s.args("run")...)
	s.daemon.Stdout, s.daemon.Stderr = log, log
	s.daemon.SysProcAttr = &unix.SysProcAttr{Setpgid: true} // an interrupt of the demo is for the demo
	if err := s.daemon.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(testenv.Slow(20 * time.Second)); ; time.Sleep(2 * time.Millisecond) {
		if c, err := net.Dial("unix", s.socket()); err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			b, _ := os.ReadFile(log.Name())
			return fmt.Errorf("the daemon does not serve:\n%s", b)
		}
	}
	if s.runtime, err = criclient.NewRemoteRuntimeServiceBuilder().WithEndpoint("unix://" + s.socket()).WithConnectionTimeout(testenv.Slow(2 * time.Minute)).Build(s.ctx); err != nil {
		return err
	}
	s.images, err = criclient.NewRemoteImageServiceBuilder().WithEndpoint("unix://" + s.socket()).WithConnectionTimeout(testenv.Slow(2 * time.Minute)).Build(s.ctx)
	return err
}

func (s *stage) runPod() error {
	s.podConfig = &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "demo", Namespace: "default", Uid: "demo-1"},
		Hostname: "demo", LogDirectory: filepath.Join(s.dir, "log"),
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
		}},
	}
	begin := time.Now()
	var err error
	if s.pod, err = s.runtime.RunPodSandbox(s.ctx, s.podConfig, ""); err != nil {
		return err
	}
	say("pod %.12s is ready after %v", s.pod, since(begin))
	if s.web, err = s.container("web", "httpd:1", nil); err != nil {
		return err
	}
	s.job, err = s.container("job", "busybox:1", []string{"sh", "-c",
		"echo 'the job begins'; while [ ! -e /finish ]; do sleep 0.1; done; echo 'the last words of the job'; exit 42"})
	return err
}

func (s *stage) container(name, image string, command []string) (string, error) {
	ref, err := s.registry.Add(image)
	if err != nil {
		return "", err
	}
	begin := time.Now()
	if _, err := s.images.PullImage(s.ctx, &runtimeapi.ImageSpec{Image: ref}, nil, nil); err != nil {
		return "", err
	}
	pulled := since(begin)
	begin = time.Now()
	id, err := s.runtime.CreateContainer(s.ctx, s.pod, &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: ref},
		Command: command, LogPath: name + ".log",
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
		}},
	}, s.podConfig)
	if err != nil {
		return "", err
	}
	if err := s.runtime.StartContainer(s.ctx, id); err != nil {
		return "", err
	}
	say("container %.12s (%s): image pulled in %v, running %v later", id, name, pulled, since(begin))
	return id, nil
}

func (s *stage) showLog() error {
	path := filepath.Join(s.podConfig.LogDirectory, "job.log")
	return s.eventually(func() error {
		b, err := os.ReadFile(path)
		if err != nil || len(b) == 0 {
			return fmt.Errorf("no log yet: %w", err)
		}
		s.print(b)
		return nil
	})
}

func (s *stage) print(b []byte) {
	for line := range strings.Lines(string(b)) {
		say("%s", dim("│ "+strings.TrimSuffix(line, "\n")))
	}
}

func (s *stage) exec() error {
	cmd := []string{"sh", "-c", "echo \"$(hostname), pid $$, $(id -un)\"; ls /"}
	out, _, err := s.runtime.ExecSync(s.ctx, s.job, cmd, testenv.Slow(10*time.Second))
	if err != nil {
		return err
	}
	s.print(out)
	return nil
}

func (s *stage) ask() error {
	st, err := s.runtime.PodSandboxStatus(s.ctx, s.pod, false)
	if err != nil {
		return err
	}
	url := "http://" + net.JoinHostPort(st.Status.Network.GetIp(), "8080") + "/"
	return s.eventually(func() error {
		r, err := http.Get(url)
		if err != nil {
			return err
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		say("GET %s: %s, %q", url, green(r.Status), strings.TrimSpace(string(b)))
		return nil
	})
}

// eventually repeats f for what comes up by itself in a moment.
func (s *stage) eventually(f func() error) error {
	for deadline := time.Now().Add(testenv.Slow(10 * time.Second)); ; {
		err := f()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-s.ctx.Done():
			return errors.Join(err, s.ctx.Err())
		}
	}
}

func since(t time.Time) time.Duration { return time.Since(t).Round(time.Millisecond) }
