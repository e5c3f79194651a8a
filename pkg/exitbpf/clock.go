// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// clock turns the kernel's CLOCK_BOOTTIME into wall time. It holds what does not
// change: the offset that a time namespace adds to the boottime this process
// reads (clock_gettime and /proc both have it, BPF does not).
type clock struct {
	offset time.Duration
}

// bootNow returns CLOCK_BOOTTIME as BPF sees it, in nanoseconds.
func (c clock) bootNow() uint64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail with a known clock
	return uint64(ts.Nano() - int64(c.offset))
}

// wall converts by the present difference of the two clocks. Time steps between
// the event and now shift the result by as much: it is the moment as today's
// clock tells it, which is what other timestamps are compared with.
func (c clock) wall(boot uint64) time.Time {
	// The two clocks cannot be read at once. If this thread loses its CPU in
	// between they are milliseconds apart, so the wall clock is read between two
	// looks at the other, and the closest of several such triples counts. Not by
	// time.Now: it reads wall clock and monotonic clock one after the other too,
	// and nobody can tell when it was interrupted in between.
	var offset int64
	for try, best := 0, uint64(1<<62); try < 8 && best > 5000; try++ {
		var real unix.Timespec
		before := c.bootNow()
		_ = unix.ClockGettime(unix.CLOCK_REALTIME, &real) // as above
		after := c.bootNow()
		if after-before < best {
			best, offset = after-before, real.Nano()-int64(before/2+after/2)
		}
	}
	return time.Unix(0, int64(boot)+offset)
}

// ticks converts a start time as /proc shows it to this process into the
// kernel's own. USER_HZ is 100 wherever we run.
func (c clock) ticks(shown uint64) uint64 { return shown - uint64(c.offset/(10*time.Millisecond)) }

func newClock() (clock, error) {
	// timens_offsets shows the namespace of future children; the two differ only
	// between unshare(CLONE_NEWTIME) and the next fork, which nobody execs us in.
	f, err := os.Open("/proc/self/timens_offsets")
	if os.IsNotExist(err) {
		return clock{}, nil // no time namespaces
	}
	if err != nil {
		return clock{}, err
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		var sec, nsec int64
		if !strings.HasPrefix(sc.Text(), "boottime") {
			continue
		}
		if _, err := fmt.Sscanf(sc.Text(), "boottime %d %d", &sec, &nsec); err != nil {
			return clock{}, fmt.Errorf("read time namespace offsets: %w", err)
		}
		return clock{offset: time.Duration(sec)*time.Second + time.Duration(nsec)}, nil
	}
	return clock{}, nil
}
