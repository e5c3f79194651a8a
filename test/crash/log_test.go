// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// stormLog is the log of a container that writes numbered lines.
type stormLog struct {
	path    string
	lines   int
	ready   bool // and a last one, "ready"
	rotated bool
}

// rotate renames the log, as the kubelet does before it has it reopened.
func (l *stormLog) rotate() bool {
	l.rotated = os.Rename(l.path, l.path+".1") == nil
	return l.rotated
}

func (l *stormLog) read() []string {
	var all []string
	paths := []string{l.path}
	if l.rotated {
		paths = []string{l.path + ".1", l.path}
	}
	for _, p := range paths {
		b, _ := os.ReadFile(p)
		for line := range strings.Lines(string(b)) {
			all = append(all, line)
		}
	}
	return all
}

// check says what is wrong with the log; empty if nothing is.
func (l *stormLog) check() string {
	got := l.read()
	want := make([]string, 0, l.lines+1)
	for i := range l.lines {
		want = append(want, fmt.Sprintf("line %d", i))
	}
	if l.ready {
		want = append(want, "ready")
	}
	for i, w := range want {
		if i >= len(got) {
			return fmt.Sprintf("%d lines, want %d", len(got), len(want))
		}
		if !strings.HasSuffix(got[i], " stdout F "+w+"\n") {
			return fmt.Sprintf("line %d of %d is %q, want %q", i, len(got), got[i], w)
		}
	}
	if len(got) > len(want) {
		return fmt.Sprintf("%d lines, want %d; the first too many is %q", len(got), len(want), got[len(want)])
	}
	return ""
}

// await waits until the log is complete.
func (l *stormLog) await(patience time.Duration) bool {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if l.check() == "" {
			return true
		}
	}
	return false
}

func sortedCopy(w []string) []string {
	w = slices.Clone(w)
	slices.Sort(w)
	return w
}
