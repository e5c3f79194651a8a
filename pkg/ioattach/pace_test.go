// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"fmt"
	"testing"
	"time"
)

// TestPace simulates sources that write evenly: how often they are read must follow from what they write, not from how they cut it.
func TestPace(t *testing.T) {
	const room = 1 << 20
	for _, c := range []struct {
		rate        int // bytes a second
		most        time.Duration
		least, upTo int // reads in ten seconds once it has settled
	}{
		{1_000, paceMax, 900, 1100},          // each wait is the longest
		{1_000_000, paceMax, 900, 1100},      //
		{40_000_000, paceMax, 2000, 2100},    // 192 KiB each
		{250_000_000, paceMax, 12000, 13000}, // likewise
		{40_000_000, paceClient, 9000, 11000},
	} {
		t.Run(fmt.Sprint(c.rate, " ", c.most), func(t *testing.T) {
			const work = 10 * time.Microsecond // from being looked at to having been read
			var p pacer
			now, read, reads := time.Unix(0, 0), time.Unix(0, 0), 0
			for end := now.Add(10 * time.Second); now.Before(end); reads++ {
				n := min(int(now.Sub(read)*time.Duration(c.rate)/time.Second)+1, laneBuf)
				read = now
				now = now.Add(work)
				d := p.wait(now, n, room, c.most)
				if d > c.most {
					t.Fatalf("wait of %v", d)
				}
				now = now.Add(d)
			}
			if reads < c.least || reads > c.upTo {
				t.Errorf("%d reads, want %d to %d", reads, c.least, c.upTo)
			}
		})
	}
	var p pacer
	now := time.Unix(0, 0)
	for range 100 { // a line now and then is read when it comes
		now = now.Add(20 * time.Millisecond)
		if d := p.wait(now, 100, room, paceMax); d != 0 {
			t.Fatalf("a quiet source waits %v", d)
		}
	}
	for i := range 10 { // a flood is read without a break
		now = now.Add(100 * time.Microsecond)
		if d := p.wait(now, laneBuf, room, paceMax); d != 0 {
			t.Fatalf("a source with more to read waits %v, in round %d", d, i)
		}
	}
	var last time.Duration
	for range 20 { // from a trickle the waits grow by steps
		now = now.Add(last + time.Millisecond)
		d := p.wait(now, 10, room, paceMax)
		if d > max(2*last, paceStep) {
			t.Fatalf("a wait of %v after one of %v", d, last)
		}
		last = d
	}
	if last != paceMax {
		t.Errorf("the waits grow to %v only", last)
	}
}
