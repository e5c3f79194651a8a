// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/testenv"
)

// BenchmarkUnwatchedProcess measures what the attached programs add to the life
// of a process that nobody watches and that is none of the daemon's (do_bench in
// testdata/swarm.c), and what two programs that do nothing add in their place:
// the kernel's own price of the two hooks. Turns of some milliseconds alternate
// with turns in which nothing is attached, so that what else the machine does
// falls on all; a difference is the median of those between neighbours.
//
// Warm is the cost for who starts process after process. Cold has the caches
// thrown out before each: the programs are then fetched from memory, as where
// processes end seldom.
func BenchmarkUnwatchedProcess(b *testing.B) {
	testenv.Require(b, testenv.Root, testenv.BPF)
	// Below a shell: a grandchild of the daemon might be an exec of its.
	s := swarm{talk(b, &os.ProcAttr{}, "/bin/sh", "-c", program(b, "swarm")+"; exit 0")}
	b.Cleanup(func() { _ = s.in.Close(); _, _ = unix.Wait4(s.pid, nil, 0, nil) })
	tracer := loadTracer(b)
	nothing := []*ebpf.Program{doNothing(b, "sched_process_exit"), doNothing(b, "signal_generate")}

	for _, c := range []struct {
		name            string
		n, cold, rounds int
	}{{"warm", 1000, 0, 300}, {"cold", 60, 1, 300}} {
		b.Run(c.name, func(b *testing.B) {
			turn := func() (ns float64) {
				s.say("bench %d %d", c.n, c.cold)
				if _, err := fmt.Sscanf(s.hear(), "bench %g", &ns); err != nil {
					b.Fatal(err)
				}
				return ns
			}
			with := func(progs []*ebpf.Program) float64 {
				for _, p := range progs {
					l, err := link.AttachTracing(link.TracingOptions{Program: p})
					if err != nil {
						b.Fatal(err)
					}
					defer l.Close()
				}
				return turn()
			}
			for b.Loop() {
				var detached, added, empty []float64
				before := turn()
				for range c.rounds {
					t := with(tracer)
					between := turn()
					e := with(nothing)
					after := turn()
					added = append(added, t-(before+between)/2)
					empty = append(empty, e-(between+after)/2)
					detached = append(detached, after)
					before = after
				}
				b.ReportMetric(median(detached), "ns/detached")
				b.ReportMetric(median(added), "ns/added")
				b.ReportMetric(median(empty), "ns/added-by-empty-programs")
			}
		})
	}
}

func median(f []float64) float64 {
	slices.Sort(f)
	return f[len(f)/2]
}

// loadTracer loads the programs as Open does, with nothing watched.
func loadTracer(b *testing.B) []*ebpf.Program {
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
	b.Cleanup(op.coll.Close)
	return slices.Collect(maps.Values(op.coll.Programs))
}

// doNothing loads a program that returns at once.
func doNothing(b *testing.B, tracepoint string) *ebpf.Program {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: tracepoint, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = p.Close() })
	return p
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
