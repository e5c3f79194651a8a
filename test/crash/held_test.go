// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/embedcri/embedcri/internal/testnode"
	"github.com/embedcri/embedcri/pkg/exitbpf"
)

// held is what is kept for containers outside of the file system: the tracer's slots, and what the keeper holds open. Sockets are
// left out, as they are to the daemon, which comes and goes.
func (a *actor) held() ([]string, error) {
	records, err := exitbpf.Records(a.n.BPF)
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, err
	}
	var all []string
	for _, r := range records {
		all = append(all, fmt.Sprintf("exit record %s of process %d", r.Key, r.Pid))
	}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", a.n.Keeper()))
	if err != nil {
		return nil, err
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && !strings.HasPrefix(to, "socket:") {
			all = append(all, "keeper's descriptor of "+to)
		}
	}
	slices.Sort(all)
	return all, nil
}

// heldAgain waits until no more is held than was, and the daemon has no more descriptors than before but for what its clients'
// connections make of them.
func (a *actor) heldAgain(was []string, descriptors int, patience time.Duration) error {
	const slack = 6
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		now, err := a.held()
		n := testnode.Descriptors(a.n.Pid())
		if err == nil && slices.Equal(now, was) && n <= descriptors+slack {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after %v the daemon has %d descriptors (%d before, %v), and there is held\n%s\nwhere there was\n%s",
				patience, n, descriptors, err, strings.Join(now, "\n"), strings.Join(was, "\n"))
		}
	}
}
