// SPDX-License-Identifier: Apache-2.0

package task

import (
	"fmt"
	"os"

	"github.com/containerd/errdefs"
)

// PIDNamespace opens the pid namespace that the container's init is in, for others to join; the caller closes it. The file means
// that namespace for good: /proc/<pid>/ns/pid would mean a stranger's, should init end and its pid be given away before it is
// joined. ErrFailedPrecondition if init does not run.
func (t *Task) PIDNamespace() (*os.File, error) {
	s := t.Status()
	gone := fmt.Errorf("container %s does not run: %w", t.id, errdefs.ErrFailedPrecondition)
	if s.State != Running {
		return nil, gone
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/pid", s.Pid))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", gone, err)
	}
	// Looked at afterwards: if the pid is init's now, it was when the file was opened.
	if start, err := startTime(s.Pid); err != nil || start != s.PidStart {
		f.Close()
		return nil, gone
	}
	return f, nil
}
