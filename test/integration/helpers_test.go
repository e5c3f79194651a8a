// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// infoPid reads the pid of init from the verbose part of a container's status.
func infoPid(t testing.TB, info map[string]string) int {
	t.Helper()
	var v struct {
		Pid json.Number `json:"pid"`
	}
	if err := json.Unmarshal([]byte(info["info"]), &v); err != nil {
		t.Fatalf("verbose info %v: %v", info, err)
	}
	pid, err := strconv.Atoi(v.Pid.String())
	if err != nil || pid <= 0 {
		t.Fatalf("verbose info has pid %q", v.Pid)
	}
	return pid
}

func touch(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// waitGone waits until a process has ended; whether it has been reaped does not matter.
func waitGone(t testing.TB, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for deadline := time.Now().Add(2 * time.Minute); ; {
		left := int(time.Until(deadline).Milliseconds())
		if left <= 0 {
			t.Fatal(fmt.Errorf("process %d does not end", pid))
		}
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, left); err == nil && n == 1 {
			return
		}
	}
}
