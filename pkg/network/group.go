// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// killGroup kills what is left of a process group whose leader is dead and not yet reaped, and
// returns when nothing of it runs.
//
// The daemon is a child subreaper: members that lose their parent become its children, and nobody
// else would reap them. Zombies that are somebody else's are left alone.
func killGroup(pgid int) error {
	deadline := time.Now().Add(killDelay)
	for {
		// In a loop, since a member may have forked while the signal went round.
		_ = unix.Kill(-pgid, unix.SIGKILL)
		left := 0
		for _, m := range membersOf(pgid) {
			switch {
			case m.pid == pgid:
			case m.zombie && m.ppid == os.Getpid():
				_, err := unix.Wait4(m.pid, nil, unix.WNOHANG, nil)
				if err != nil && !errors.Is(err, unix.ECHILD) {
					left++
				}
			case !m.zombie:
				left++
			}
		}
		if left == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d processes of group %d do not die", left, pgid)
		}
		time.Sleep(time.Millisecond)
	}
}

type member struct {
	pid, ppid int
	zombie    bool
}

// membersOf finds a group's processes in /proc; there is no other way to list them. It is for the
// rare case of a time-out, so that it reads every process does not matter.
func membersOf(pgid int) []member {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil
	}
	var out []member
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue // it has gone
		}
		if m, group, ok := parseStat(pid, stat); ok && group == pgid {
			out = append(out, m)
		}
	}
	return out
}

// parseStat reads proc_pid_stat(5). The second field is a name that may hold spaces and
// parentheses; the last ')' ends it.
func parseStat(pid int, stat []byte) (m member, pgid int, ok bool) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return member{}, 0, false
	}
	f := bytes.Fields(stat[end+1:])
	if len(f) < 3 {
		return member{}, 0, false
	}
	ppid, err1 := strconv.Atoi(string(f[1]))
	pgid, err2 := strconv.Atoi(string(f[2]))
	return member{pid: pid, ppid: ppid, zombie: f[0][0] == 'Z' || f[0][0] == 'X'}, pgid, err1 == nil && err2 == nil
}
