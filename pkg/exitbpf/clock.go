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
	// between they are milliseconds apart, so the closest of several pairs counts.
	var real time.Time
	var now uint64
	for try, best := 0, time.Duration(1<<62); try < 8 && best > 5*time.Microsecond; try++ {
		before := time.Now()
		b := c.bootNow()
		if apart := time.Since(before); apart < best {
			best, now, real = apart, b, before.Add(apart/2)
		}
	}
	return time.Unix(0, real.UnixNano()).Add(time.Duration(int64(boot) - int64(now)))
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
