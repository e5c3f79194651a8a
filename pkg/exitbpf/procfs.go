// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// stat is what /proc/<pid>/stat tells of a process, proc(5).
type stat struct {
	state byte
	start uint64 // field 22, in USER_HZ since boot
	code  int    // field 52, wait(2) encoding; 0 also if we may not know
}

// readStat fails with an error that is unix.ESRCH if there is no such process.
func readStat(pid int) (stat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	// ESRCH is that of the read, if the process has been reaped since the open.
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return stat{}, unix.ESRCH
	}
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
}

func parseStat(b []byte) (stat, error) {
	// comm (field 2) may hold blanks and parentheses: start after the last one.
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return stat{}, fmt.Errorf("parse stat %q: no command name", b)
	}
	f := bytes.Fields(b[i+1:]) // f[0] is field 3
	if len(f) < 50 || len(f[0]) != 1 {
		return stat{}, fmt.Errorf("parse stat %q: %d fields", b, len(f))
	}
	start, err := strconv.ParseUint(string(f[22-3]), 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("parse stat: start time: %w", err)
	}
	code, err := strconv.Atoi(string(f[52-3]))
	if err != nil {
		return stat{}, fmt.Errorf("parse stat: exit code: %w", err)
	}
	return stat{state: f[0][0], start: start, code: code}, nil
}

// dead reports whether the whole process is a corpse. A leader that left first
// shows as a zombie too, with its other threads beside it.
func (s stat) dead(pid int) bool {
	if s.state == 'X' {
		return true
	}
	if s.state != 'Z' {
		return false
	}
	threads, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/task")
	return err != nil || len(threads) <= 1
}

// pidNamespace returns the inode number of this process' pid namespace.
func pidNamespace() (uint32, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: "/proc/self/ns/pid", Err: err}
	}
	return uint32(st.Ino), nil
}

// initPidns is the initial pid namespace's inode: include/linux/proc_ns.h, PROC_PID_INIT_INO.
const initPidns = 0xEFFFFFFC
