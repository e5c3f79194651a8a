// SPDX-License-Identifier: Apache-2.0

package exitbpf

// Owns tells whether pid, as this process' pid namespace numbers it, is a process that the tracer holds and will reap. Whoever
// reaps orphans leaves those alone: a zombie taken from under the tracer frees its pid while the tracer still goes by it.
func (t *Tracer) Owns(pid int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range t.fds { // a watch leaves this map when its process has been reaped
		if w.pid == pid {
			return true
		}
	}
	return false
}
