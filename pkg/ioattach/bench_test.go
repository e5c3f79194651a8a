// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// cpuSeconds is what this process has used, user and system.
func cpuSeconds(t testing.TB) float64 {
	t.Helper()
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano()).Seconds()
}

// BenchmarkLog is 200 MB of 100-byte lines from another process, by the size of its writes:
// MB/s of container output and the CPU seconds the daemon took for it.
func BenchmarkLog(b *testing.B) {
	const lines, size = 2_000_000, 100
	for _, per := range []int{size, 4096, 65536} {
		b.Run(fmt.Sprint("writes=", per), func(b *testing.B) {
			n := newNode(b, HubOptions{})
			var took time.Duration
			var cpu float64
			for i := range b.N {
				id := fmt.Sprint("c", i)
				st := n.create(id, Options{})
				from, used := time.Now(), cpuSeconds(b)
				cmd := startCmd(b, st, roleCmd("writer", fmt.Sprint(lines), fmt.Sprint(size), fmt.Sprint(per)))
				drain(b, st, cmd)
				took += time.Since(from)
				cpu += cpuSeconds(b) - used
				b.StopTimer()
				fi, err := os.Stat(n.log(id))
				if err != nil {
					b.Fatal(err)
				}
				if want := int64(lines * (size + headLen)); fi.Size() != want {
					b.Fatalf("log has %d bytes, want %d", fi.Size(), want)
				}
				if err := os.RemoveAll(filepath.Dir(n.log(id))); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(lines*size)*float64(b.N)/took.Seconds()/1e6, "MB/s")
			b.ReportMetric(cpu/float64(b.N), "cpu-s/200MB")
			b.ReportMetric(0, "ns/op")
		})
	}
}
