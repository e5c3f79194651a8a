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

// held is what is kept for containers outside of the file system: the tracer's slots, and what the keeper holds open. Left out are
// sockets, as they are to the daemon, which comes and goes, and lanes, which are no container's: a bounded pool that grows when a
// daemon is killed in the middle of a batch.
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
		if to, err := os.Readlink(fd); err == nil && !strings.HasPrefix(to, "socket:") && !strings.Contains(to, "/io/lane-") {
			all = append(all, "keeper's descriptor of "+to)
		}
	}
	slices.Sort(all)
	return all, nil
}

// surplus is what is in now more often than in was.
func surplus(now, was []string) []string {
	more := slices.Clone(now)
	for _, w := range was {
		if i := slices.Index(more, w); i >= 0 {
			more = slices.Delete(more, i, i+1)
		}
	}
	return more
}

// heldAgain waits until no more is held than was, and the daemon has no more descriptors than before but for what its clients'
// connections make of them.
func (a *actor) heldAgain(was []string, descriptors int, patience time.Duration) error {
	const slack = 6
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		now, err := a.held()
		n := testnode.Descriptors(a.n.Pid())
		more := surplus(now, was)
		if err == nil && len(more) == 0 && n <= descriptors+slack {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after %v the daemon has %d descriptors (%d before, %v), and there is held what was not:\n%s",
				patience, n, descriptors, err, strings.Join(more, "\n"))
		}
	}
}
