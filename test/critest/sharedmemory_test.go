// SPDX-License-Identifier: Apache-2.0

package critest

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// segmentSize is what critest asks ipcmk for, in bytes.
const segmentSize = "1048576"

// removeSharedMemory returns a function that removes the System V segments that critest has made on the host since the call: it
// looks for them in containers, and leaves them.
func removeSharedMemory(t *testing.T) func() {
	before := sharedMemory(t)
	return func() {
		for id, attached := range sharedMemory(t) {
			if _, old := before[id]; old || attached > 0 {
				continue
			}
			if _, err := unix.SysvShmCtl(id, unix.IPC_RMID, nil); err != nil {
				t.Errorf("remove shared memory segment %d: %v", id, err)
			}
		}
	}
}

// sharedMemory lists the segments of critest's size in the host's IPC namespace and how often each is attached, by proc_sysvipc(5).
func sharedMemory(t *testing.T) map[int]int {
	t.Helper()
	b, err := os.ReadFile("/proc/sysvipc/shm")
	if err != nil {
		t.Fatal(err)
	}
	segments := map[int]int{}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line) // key shmid perms size cpid lpid nattch …
		if len(f) < 7 || f[3] != segmentSize {
			continue
		}
		id, err := strconv.Atoi(f[1])
		if err != nil {
			t.Fatal(err)
		}
		if segments[id], err = strconv.Atoi(f[6]); err != nil {
			t.Fatal(err)
		}
	}
	return segments
}
