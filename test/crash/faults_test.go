// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testenv"
	"github.com/embedcri/embedcri/internal/testnode"
)

// victim is a node with a pod and a running container that was there before something broke.
type victim struct {
	*testnode.Node
	t   *testing.T
	ref string
	pc  *runtimeapi.PodSandboxConfig
	pod string
	ctr string
}

func newVictim(t *testing.T, o testnode.Options) *victim {
	t.Helper()
	v := &victim{t: t, Node: testnode.Start(t, o), ref: registry.Ref(t, "busybox:1")}
	v.Pull(v.ref)
	v.pc = v.HostPodConfig()
	v.pod = v.RunPod(v.pc)
	v.ctr = v.Run(v.pod, v.pc, v.ContainerConfig(v.ref, "sh", "-c", waits))
	return v
}

// try runs a pod with a container, and removes what there is of them.
func (v *victim) try() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	pc := v.HostPodConfig()
	pod, err := v.Runtime.RunPodSandbox(ctx, pc, "")
	if err != nil {
		return err
	}
	cfg := v.ContainerConfig(v.ref, "true")
	cfg.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	id, err := v.Runtime.CreateContainer(ctx, pod, cfg, pc)
	if err == nil {
		err = v.Runtime.StartContainer(ctx, id)
	}
	return errors.Join(err, v.Runtime.StopPodSandbox(ctx, pod), v.Runtime.RemovePodSandbox(ctx, pod))
}

// wantError checks that something new fails, and that the reason can be read.
func (v *victim) wantError(text string) {
	v.t.Helper()
	if err := v.try(); err == nil || !strings.Contains(err.Error(), text) {
		v.t.Errorf("a new container: %v; want an error with %q", err, text)
	}
}

// wantOthersGoOn checks that what was there before is not disturbed.
func (v *victim) wantOthersGoOn() {
	v.t.Helper()
	if s := v.Status(v.ctr); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		v.t.Errorf("the container that was there before: %v", s)
	}
	if _, err := v.Runtime.ListPodSandbox(v.Ctx(), nil); err != nil {
		v.t.Error(err)
	}
}

// wantHealed checks that all is well when the cause is gone.
func (v *victim) wantHealed() {
	v.t.Helper()
	v.Eventually("healed", v.try)
}

// smallDisk mounts a file system of its own for the test.
func smallDisk(t *testing.T, options string) string {
	t.Helper()
	testenv.Require(t, testenv.Root)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestDiskFull fills the disk with the images and records, once its blocks and once its inodes.
func TestDiskFull(t *testing.T) {
	for name, c := range map[string]struct {
		options string
		fill    func(dir string) error
	}{
		"blocks": {"size=64m", func(dir string) error {
			f, err := os.Create(filepath.Join(dir, "filler"))
			if err != nil {
				return err
			}
			defer f.Close()
			block := make([]byte, 1<<20)
			for err == nil {
				_, err = f.Write(block)
			}
			return err
		}},
		"inodes": {"size=64m,nr_inodes=4000", func(dir string) error {
			err := os.Mkdir(filepath.Join(dir, "filler"), 0o700)
			for i := 0; err == nil; i++ {
				err = os.WriteFile(filepath.Join(dir, "filler", fmt.Sprint(i)), nil, 0o600)
			}
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			disk := smallDisk(t, c.options)
			v := newVictim(t, testnode.Options{NoNetwork: true, Root: disk})
			asked := v.Run(v.pod, v.pc, v.ContainerConfig(v.ref, "sh", "-c", waits))
			v.Eventually("it listens", func() error {
				if l := v.ContainerLog(asked); len(l) != 1 {
					return fmt.Errorf("log: %v", l)
				}
				return nil
			})
			if err := c.fill(disk); !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
			v.wantError("no space left on device")
			v.wantOthersGoOn()
			// What ends is what makes room: it must not wait for room.
			if err := v.Runtime.StopContainer(v.Ctx(), asked, 20); err != nil {
				t.Errorf("stop on a full disk: %v", err)
			}
			if s := v.Status(asked); s.ExitCode != 7 {
				t.Errorf("stopped on a full disk: %v", s)
			}
			// Killed now, the exit is known to the kernel alone.
			v.Kill()
			if err := os.RemoveAll(filepath.Join(disk, "filler")); err != nil {
				t.Fatal(err)
			}
			v.Start()
			if s := v.Status(asked); s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != 7 {
				t.Errorf("stopped on a full disk, after a restart: %v", s)
			}
			v.wantOthersGoOn()
			v.wantHealed()
			if err := c.fill(disk); !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
			if err := v.Runtime.RemoveContainer(v.Ctx(), asked); err != nil {
				t.Errorf("remove on a full disk: %v", err)
			}
			if err := os.RemoveAll(filepath.Join(disk, "filler")); err != nil {
				t.Fatal(err)
			}
			v.wantHealed()
		})
	}
}

// TestReadOnlyRecords makes the directory of records read-only.
func TestReadOnlyRecords(t *testing.T) {
	v := newVictim(t, testnode.Options{NoNetwork: true})
	dir := filepath.Join(v.Dir, "root", "state")
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	unmount := func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }
	t.Cleanup(unmount) // before the node's own cleaning up
	if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	v.wantError("read-only file system")
	v.wantOthersGoOn()
	if err := v.Runtime.StopContainer(v.Ctx(), v.ctr, 20); err != nil {
		t.Errorf("stop: %v", err)
	}
	if s := v.Status(v.ctr); s.State != runtimeapi.ContainerState_CONTAINER_EXITED {
		t.Errorf("stopped: %v", s)
	}
	unmount()
	v.wantHealed()
}

// TestDescriptorLimit leaves the daemon without file descriptors.
func TestDescriptorLimit(t *testing.T) {
	v := newVictim(t, testnode.Options{NoNetwork: true})
	var old unix.Rlimit
	if err := unix.Prlimit(v.Pid(), unix.RLIMIT_NOFILE, nil, &old); err != nil {
		t.Fatal(err)
	}
	low := unix.Rlimit{Cur: uint64(testnode.Descriptors(v.Pid())) + 1, Max: old.Max}
	if err := unix.Prlimit(v.Pid(), unix.RLIMIT_NOFILE, &low, nil); err != nil {
		t.Fatal(err)
	}
	v.wantError("too many open files")
	v.wantOthersGoOn()
	if err := unix.Prlimit(v.Pid(), unix.RLIMIT_NOFILE, &old, nil); err != nil {
		t.Fatal(err)
	}
	v.wantHealed()
}

// TestBrokenRuntime replaces the OCI runtime by what hangs, and by what is none.
func TestBrokenRuntime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runc")
	good, err := os.ReadFile(testenv.RuncPath(t))
	if err != nil {
		t.Fatal(err)
	}
	install := func(content []byte) {
		t.Helper()
		if err := os.WriteFile(path+".new", content, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	install(good)
	v := newVictim(t, testnode.Options{NoNetwork: true, Runc: path, Config: "[runtime]\ntimeout = \"2s\"\n"})
	was := v.Quiet()
	for _, c := range []struct{ name, content, text string }{
		{"hangs", "#!/bin/sh\nsleep 1000\n", "no answer within 2s"},
		{"garbage", "\x7fELF nothing that runs", "exec format error"},
		{"fails", "#!/bin/sh\nexit 1\n", "exit status 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v.t = t
			install([]byte(c.content))
			v.wantError(c.text)
			v.wantOthersGoOn()
			install(good)
			v.wantHealed()
			if err := v.Settled(was, nil, 90*time.Second); err != nil {
				t.Errorf("left behind: %v", err)
			}
		})
	}
	v.t = t
	// One that hangs while a container is taken apart: the container has ended all the same. Where the daemon takes it apart itself,
	// the runtime is not even asked.
	install([]byte("#!/bin/sh\nsleep 1000\n"))
	if err := v.Runtime.StopContainer(v.Ctx(), v.ctr, 20); err != nil {
		t.Errorf("stop with a runtime that hangs: %v", err)
	}
	if err := v.Runtime.RemoveContainer(v.Ctx(), v.ctr); err != nil && !strings.Contains(err.Error(), "no answer within 2s") {
		t.Errorf("remove with a runtime that hangs: %v", err)
	}
	install(good)
	v.Eventually("removed", func() error { return v.Runtime.RemoveContainer(v.Ctx(), v.ctr) })
}

// TestBusyCgroup puts a process of somebody else into a container's cgroup. What is in there when the container is removed is
// killed; where the kernel counts a zombie that is not the daemon's to reap, removing fails until it is reaped.
func TestBusyCgroup(t *testing.T) {
	v := newVictim(t, testnode.Options{NoNetwork: true})
	other := v.Run(v.pod, v.pc, v.ContainerConfig(v.ref, "sh", "-c", waits))
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reaped := false
	defer func() {
		if !reaped {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}()
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + v.Parent + "/" + other)
	more, _ := filepath.Glob("/sys/fs/cgroup" + v.Parent + "/" + other)
	for _, d := range append(dirs, more...) {
		if err := os.WriteFile(filepath.Join(d, "cgroup.procs"), fmt.Append(nil, cmd.Process.Pid), 0); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(v.Ctx(), time.Minute)
	defer cancel()
	err := v.Runtime.RemoveContainer(ctx, other)
	if err != nil && !strings.Contains(err.Error(), "cgroup") {
		t.Errorf("remove with a busy cgroup: %v", err)
	}
	v.wantOthersGoOn()
	v.wantHealed()
	_ = cmd.Wait() // it was killed
	reaped = true
	v.Eventually("removed", func() error { return v.Runtime.RemoveContainer(v.Ctx(), other) })
}
