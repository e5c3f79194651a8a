// SPDX-License-Identifier: Apache-2.0

// Package orphan ends the programs of a daemon that was killed: an OCI runtime in the middle of a create, a CNI plug-in in the
// middle of an ADD. They do not notice that nobody waits for them any more, and would go on to make things behind the back of the
// next daemon, which has just taken back what they had made so far.
//
// They are known by a mark in their environment, which their own children inherit. What left the daemon's session on purpose
// (setsid(2): a plug-in's own daemon) is nobody's orphan and is left alone. Containers do not inherit the mark: runtimes give
// them the environment of their specification.
package orphan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// env is the variable with the mark: <state directory>@<session id of the daemon>.
const env = "EMBEDCRI_STARTED_BY"

// Mark marks all programs that this process starts from now on, unless they are given an environment without it. dir is what the
// daemon holds alone and its successor will hold, its state directory.
func Mark(dir string) error {
	sid, err := unix.Getsid(0)
	if err != nil {
		return fmt.Errorf("mark child processes: %w", err)
	}
	return os.Setenv(env, dir+"@"+strconv.Itoa(sid))
}

const (
	poll      = 2 * time.Millisecond
	killDelay = 5 * time.Second // a killed process may be in an uninterruptible sleep
)

// End waits up to patience for the marked programs of earlier daemons of dir to end by themselves, since half-done work is more to
// clean up than done work, and then kills them. It has to be called by whoever holds dir, before Mark. It returns how many there
// were; those that do not die are an error.
func End(ctx context.Context, dir string, patience time.Duration) (found int, err error) {
	procs := find(dir)
	found = len(procs)
	defer func() {
		for _, p := range procs {
			unix.Close(p.fd)
		}
	}()
	// They may start others, so once the known ones are gone it is looked again.
	for deadline := time.Now().Add(patience); len(procs) > 0; {
		if procs = wait(ctx, procs, deadline); len(procs) > 0 {
			break
		}
		procs = find(dir)
	}
	for deadline := time.Now().Add(killDelay); len(procs) > 0; {
		for _, p := range procs {
			_ = unix.PidfdSendSignal(p.fd, unix.SIGKILL, nil, 0)
		}
		if procs = wait(ctx, procs, deadline); len(procs) > 0 {
			return found, fmt.Errorf("%d programs of an earlier daemon do not die, process %d for one", len(procs), procs[0].pid)
		}
		procs = find(dir)
	}
	return found, nil
}

type process struct{ pid, fd int }

// wait returns those that still run at the deadline.
func wait(ctx context.Context, procs []process, deadline time.Time) []process {
	for {
		var left []process
		for _, p := range procs {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, 0)
			if err == nil && n == 1 {
				unix.Close(p.fd)
				continue
			}
			left = append(left, p)
		}
		procs = left
		if len(procs) == 0 || time.Now().After(deadline) || ctx.Err() != nil {
			return procs
		}
		time.Sleep(poll)
	}
}

// find opens all living marked programs. A few hundred processes take a few milliseconds.
func find(dir string) []process {
	entries, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	mark := []byte(env + "=" + dir + "@")
	var found []process
	for _, path := range entries {
		pid, err := strconv.Atoi(filepath.Base(path))
		if err != nil || pid == os.Getpid() {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0) // before looking: what is looked at cannot become another process
		if err != nil {
			continue
		}
		if marked(pid, mark) {
			found = append(found, process{pid, fd})
		} else {
			unix.Close(fd)
		}
	}
	return found
}

// marked tells whether a process bears the mark and is in the session that the mark names.
func marked(pid int, mark []byte) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false // gone, a zombie, or a kernel thread
	}
	for kv := range bytes.SplitSeq(b, []byte{0}) {
		rest, ok := bytes.CutPrefix(kv, mark)
		if !ok {
			continue
		}
		want, err := strconv.Atoi(string(rest))
		if err != nil {
			return false
		}
		sid, err := unix.Getsid(pid)
		return err == nil && sid == want || errors.Is(err, unix.EPERM)
	}
	return false
}
