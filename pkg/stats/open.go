// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/embedcri/embedcri/internal/cgroup"
)

// countOpen counts the descriptors of all processes in a cgroup, and reads the limit of its init. Processes that end meanwhile are
// left out.
func countOpen(path string, pid int) (*Open, error) {
	pids, err := cgroup.FromOCI(path).Pids()
	if err != nil {
		return nil, err
	}
	o := &Open{At: time.Now()}
	for _, p := range pids {
		dir := fmt.Sprintf("/proc/%d/fd", p)
		d, err := os.Open(dir)
		if err != nil {
			continue
		}
		names, _ := d.Readdirnames(-1)
		d.Close()
		o.Descriptors += uint64(len(names))
		for _, name := range names {
			if target, err := os.Readlink(filepath.Join(dir, name)); err == nil && strings.HasPrefix(target, "socket:") {
				o.Sockets++
			}
		}
	}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid)); err == nil && pid > 0 {
		o.Limit, o.HasLimit = openFiles(b)
	}
	return o, nil
}
