// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/testenv"
)

// BenchmarkUnwatchedProcess measures what the attached programs add to the life
// of a process that nobody watches and that is none of the daemon's: vfork,
// _exit, waitpid, in testdata/swarm.c. Attached and detached take turns every few
// milliseconds, so that what else the machine does falls on both; each turn
// gives the median of its processes, ns/difference is the median of the
// differences between neighbours. ns/exit-run and ns/signal-run are the kernel's
// own measure of one run (BPF_STATS_RUN_TIME; includes its looks at the clock).
func BenchmarkUnwatchedProcess(b *testing.B) {
	testenv.Require(b, testenv.Root, testenv.BPF)
	// Below a shell: a grandchild of the daemon might be an exec of its.
	s := swarm{talk(b, &os.ProcAttr{}, "/bin/sh", "-c", program(b, "swarm")+"; exit 0")}
	b.Cleanup(func() { _ = s.in.Close(); _, _ = unix.Wait4(s.pid, nil, 0, nil) })
	measure := func(n int) float64 {
		var ns float64
		s.say("bench %d", n)
		if _, err := fmt.Sscanf(s.hear(), "bench %g", &ns); err != nil {
			b.Fatal(err)
		}
		return ns
	}
	ns, err := pidNamespace()
	if err != nil {
		b.Fatal(err)
	}
	op := &opener{links: map[string]link.Link{}}
	if op.spec, err = loadExit(); err != nil {
		b.Fatal(err)
	}
	for _, step := range []func() error{func() error { return op.configure(ns) }, op.load} {
		if err := step(); err != nil {
			b.Fatalf("%+v", err)
		}
	}
	defer op.coll.Close()
	attached := func(n int) float64 {
		if err := op.attach(); err != nil {
			b.Fatal(err)
		}
		defer func() {
			for _, l := range op.links {
				_ = l.Close()
			}
		}()
		return measure(n)
	}

	const n, rounds = 1000, 60
	for range b.N {
		var with, without, diff []float64
		for i := range rounds {
			var on, off float64
			if i%2 == 0 {
				off, on = measure(n), attached(n)
			} else {
				on, off = attached(n), measure(n)
			}
			with, without, diff = append(with, on), append(without, off), append(diff, on-off)
		}
		for _, f := range [][]float64{with, without, diff} {
			slices.Sort(f)
		}
		b.ReportMetric(with[rounds/2], "ns/attached")
		b.ReportMetric(without[rounds/2], "ns/detached")
		b.ReportMetric(diff[rounds/2], "ns/difference")

		stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
		if err != nil {
			b.Fatal(err)
		}
		attached(20 * n)
		_ = stats.Close()
		for _, name := range []string{"exit", "signal"} {
			st, err := op.coll.Programs[programs()[name]].Stats()
			if err != nil || st.RunCount == 0 {
				b.Fatalf("%+v, %v", st, err)
			}
			b.ReportMetric(float64(st.Runtime.Nanoseconds())/float64(st.RunCount), "ns/"+name+"-run")
		}
	}
}

// BenchmarkWatch measures Watch and Forget of a living process.
func BenchmarkWatch(b *testing.B) {
	tr := openNew(b)
	pid, _ := parked(b, "exit 0")
	for b.Loop() {
		k := newKey()
		watch(b, tr, k, pid)
		if err := tr.Forget(k); err != nil {
			b.Fatal(err)
		}
	}
}
