// SPDX-License-Identifier: Apache-2.0

package runc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Two calls of the runtime do so little that starting the program for them costs most of their time: start opens a FIFO that init
// waits at, and delete of a container that has ended removes its cgroup and a directory. Where the runtime is runc, which its state
// file tells, this daemon does the two itself: a pod starts 10 ms sooner, and is gone without another process. Whatever is not the
// plain case (another runtime, hooks, the systemd driver, a live or dead init where there should be none) is left to the program.

// state is what of runc's state.json is needed here (libcontainer/container_linux.go, State).
type state struct {
	InitPid     int               `json:"init_process_pid"`
	InitStart   uint64            `json:"init_process_start"` // clock ticks since boot, as in /proc/pid/stat
	CgroupPaths map[string]string `json:"cgroup_paths"`
	IntelRdt    string            `json:"intel_rdt_path"`
	Config      struct {
		Namespaces []namespace                  `json:"namespaces"`
		Hooks      map[string][]json.RawMessage `json:"Hooks"`
	} `json:"config"`
}

type namespace struct {
	Type string `json:"type"`
	Path string `json:"path"` // of one that exists; "" is a new one
}

// readState reads runc's record of a container. ok is false if there is none, or it is another runtime's.
func (r *Runtime) readState(id string) (s state, ok bool) {
	b, err := os.ReadFile(filepath.Join(r.o.Root, id, "state.json"))
	if err != nil || json.Unmarshal(b, &s) != nil {
		return s, false
	}
	return s, s.InitPid > 0 && len(s.CgroupPaths) > 0
}

// initGone tells whether init has ended: it is not there, it is a zombie, or its pid is another process' by now.
func (s state) initGone() bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(s.InitPid) + "/stat")
	if err != nil {
		return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:])) // proc_pid_stat(5): field 3 is the first here
	if len(f) < 20 {
		return false
	}
	return f[0] == "Z" || f[0] == "X" || f[19] != strconv.FormatUint(s.InitStart, 10)
}

// Passed tells whether init is known to be past the barrier: runc, or startNatively, removes the FIFO when init has. False says
// nothing: one that was killed in between leaves it there, and another runtime may have none.
func (r *Runtime) Passed(id string) bool {
	if _, ok := r.readState(id); !ok {
		return false
	}
	_, err := os.Stat(filepath.Join(r.o.Root, id, "exec.fifo"))
	return errors.Is(err, fs.ErrNotExist)
}

// StartEnd names, for Options.Barriers, the end of the FIFO that init waits at, of the container with the bundle dir.
func StartEnd(dir string) string { return filepath.Join(dir, "start") }

// fifoPoll is how often start looks whether init is still there to open its end.
const fifoPoll = 100 * time.Millisecond

// startNatively lifts the barrier as runc's start does (Container.exec). It returns false if that is left to the program, before
// anything has been done.
func (r *Runtime) startNatively(ctx context.Context, id, dir string) (done bool, err error) {
	s, ok := r.readState(id)
	if !ok || s.initGone() || r.o.Barriers == nil {
		return false, nil
	}
	path := filepath.Join(r.o.Root, id, "exec.fifo")
	// Not to be blocked: init may die before it opens its end. Once this end is open init goes on, so there is no way back.
	end := StartEnd(dir)
	fd, err := r.o.Barriers.OpenHeld(end, path)
	if err != nil {
		return false, nil
	}
	defer unix.Close(fd)
	defer r.o.Barriers.LetGo(end)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(fifoPoll.Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return true, fmt.Errorf("wait at %s: %w", path, err)
		}
		if n == 1 {
			break
		}
		if s.initGone() {
			return false, nil // the program says so in words that are known
		}
		if ctx.Err() != nil {
			return true, fmt.Errorf("init does not open %s: %w", path, context.Cause(ctx))
		}
	}
	var b [1]byte
	if n, err := unix.Read(fd, b[:]); n != 1 {
		return true, fmt.Errorf("read %s: %d bytes: %w", path, n, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return true, err
	}
	return true, nil
}

const (
	initComm    = "runc:[2:INIT]\n"      // what init calls itself (nsenter/nsexec.c); execve gives it the program's name
	programPoll = 100 * time.Microsecond // it takes about three of them
	programMost = 10 * time.Second       // hooks may come before it
)

// awaitProgram waits until init has become the user's program, or has ended. Only then does a signal reach who it is meant for: runc's
// own code dies of some in its own way, with exit code 2 where the program would have caught them.
func (s state) awaitProgram(ctx context.Context) {
	comm := "/proc/" + strconv.Itoa(s.InitPid) + "/comm"
	for deadline := time.Now().Add(programMost); ctx.Err() == nil && time.Now().Before(deadline); time.Sleep(programPoll) {
		if b, err := os.ReadFile(comm); err != nil || string(b) != initComm || s.initGone() {
			return
		}
	}
}

// deleteNatively removes what runc keeps of a container that has ended, as its delete does (libcontainer/state_linux.go, destroy).
// It returns false if that is left to the program, before anything has been done. ErrBusy as in Delete.
func (r *Runtime) deleteNatively(id string) (done bool, err error) {
	s, ok := r.readState(id)
	private := slices.Contains(s.Config.Namespaces, namespace{Type: "NEWPID"}) // else processes may have outlived init
	if !ok || !private || r.o.SystemdCgroup || s.IntelRdt != "" || len(s.Config.Hooks["poststop"]) > 0 || !s.initGone() {
		return false, nil
	}
	for _, dir := range s.CgroupPaths {
		if err := removeCgroup(dir); err != nil {
			return true, err
		}
	}
	return true, os.RemoveAll(filepath.Join(r.o.Root, id))
}

// removeCgroup removes a cgroup and those below it. The kernel needs a moment to let go of one whose last process has just died.
func removeCgroup(dir string) error {
	if !strings.HasPrefix(dir, "/sys/fs/cgroup/") || strings.Contains(dir, "/../") {
		return fmt.Errorf("%q is no cgroup", dir)
	}
	for wait := time.Millisecond; ; wait *= 2 {
		err := removeTree(dir)
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		if wait > 16*time.Millisecond {
			return fmt.Errorf("remove %s: %w", dir, ErrBusy)
		}
		time.Sleep(wait)
	}
}

// removeTree removes the directories; the files in them are the kernel's and go with them.
func removeTree(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	entries, rerr := os.ReadDir(dir)
	if rerr != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err = unix.Rmdir(dir); errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
