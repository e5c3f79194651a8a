// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func ptr[T any](v T) *T { return &v }

// TestRecorded reads files recorded from containers with limits that had burned CPU, held memory and written a file: v1 with its
// hybrid v2 tree from kernel 6.18 (the device numbers are from the kernel's documentation, as that machine counts none), v2 from 6.1.
func TestRecorded(t *testing.T) {
	for name, want := range map[string]Sample{
		"v1": {
			CPU: CPU{
				Usage: 1088010200, User: 880_000_000, System: 200_000_000, Periods: 29, Throttled: 8, ThrottledTime: 199227887,
				Pressure: &Pressure{
					Some: Stall{Total: 1005610_000, Avg10: 5.43, Avg60: 0.98, Avg300: 0.20},
					Full: Stall{Total: 998651_000, Avg10: 5.43, Avg60: 0.98, Avg300: 0.20},
				},
			},
			Memory: Memory{
				Usage: 71942144, WorkingSet: 71942144 - 31477760, RSS: 38739968, Cache: 31510528, Mapped: 24576, Kernel: 1781760,
				ActiveFile: 28672, InactiveFile: 31477760, MaxUsage: 72245248, Limit: 199999488,
				Swap: ptr(uint64(0)), SwapLimit: ptr(uint64(299999232 - 199999488)), Faults: 18038, MajorFaults: 1,
				Pressure: &Pressure{},
			},
			IO:        &Pressure{Some: Stall{Total: 7908_000}, Full: Stall{Total: 7908_000}},
			Processes: Processes{Count: 3, Threads: 3, ThreadsMax: 50},
			Devices: []Device{
				{Major: 8, Minor: 0, ReadBytes: 4096, WriteBytes: 31457280, Reads: 1, Writes: 60},
				{Major: 254, Minor: 1, ReadBytes: 512, Reads: 1},
			},
		},
		"v2": {
			CPU: CPU{
				Usage: 52345037_000, User: 41061968_000, System: 11283069_000, Periods: 1074, Throttled: 954, ThrottledTime: 51204099_000,
				Pressure: &Pressure{
					Some: Stall{Total: 52374381_000, Avg10: 38.48, Avg60: 38.53, Avg300: 14.67},
					Full: Stall{Total: 51555719_000, Avg10: 38.30, Avg60: 38.21, Avg300: 14.47},
				},
			},
			Memory: Memory{
				Usage: 30715904, WorkingSet: 30715904 - 21504000, RSS: 8302592, Cache: 21995520, Mapped: 40960, Kernel: 237568,
				ActiveFile: 491520, InactiveFile: 21504000, MaxUsage: 32083968, Limit: 199999488,
				Swap: ptr(uint64(0)), SwapLimit: ptr(uint64(99999744)), Faults: 3942, MajorFaults: 10,
				Pressure: &Pressure{},
			},
			IO:        &Pressure{Some: Stall{Total: 183872_000, Avg10: 0.59, Avg60: 0.17, Avg300: 0.03}, Full: Stall{Total: 183872_000, Avg10: 0.59, Avg60: 0.17, Avg300: 0.03}},
			Processes: Processes{Count: 2, Threads: 2, ThreadsMax: 50},
			Devices:   []Device{{Major: 254, ReadBytes: 22085632, WriteBytes: 20975616, Reads: 205, Writes: 21}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			fs := newFileSet(true)
			defer fs.close()
			for range 2 { // the second time from open files
				var got Sample
				if err := readerOf(name == "v2")(fs, filepath.Join("testdata", name), "ctr", make([]byte, bufSize), &got); err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("got  %+v\nwant %+v", got, want)
				}
			}
		})
	}
}

// TestAbsent: a cgroup that is not there is gone; controllers that are not there are not known.
func TestAbsent(t *testing.T) {
	for _, v2 := range []bool{false, true} {
		root, fs := t.TempDir(), newFileSet(true)
		var s Sample
		if err := readerOf(v2)(fs, root, "x", make([]byte, bufSize), &s); err != errGone {
			t.Errorf("v2 %v: %v", v2, err)
		}
		dir, file, text := "cpuacct/x", "cpuacct.usage", "5\n"
		if v2 {
			dir, file, text = "x", "cpu.stat", "usage_usec 5\n"
		}
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		fs = newFileSet(true)
		if err := readerOf(v2)(fs, root, "x", make([]byte, bufSize), &s); err != nil || s.CPU.Usage == 0 {
			t.Errorf("v2 %v: %v, %+v", v2, err, s.CPU)
		}
		if m := s.Memory; m.Swap != nil || m.SwapLimit != nil || m.Pressure != nil || m.Limit != 0 {
			t.Errorf("v2 %v: invented %+v", v2, m)
		}
		fs.close()
	}
}

func TestNumber(t *testing.T) {
	for in, want := range map[string]uint64{"0\n": 0, "17": 17, "max\n": 0, "9223372036854771712\n": 0, "": 0, "-1": 0, "x": 0} {
		got, ok := number([]byte(in))
		if limit := in == "0\n" || in == "17"; ok != limit || ok && got != want {
			t.Errorf("%q: %d, %v", in, got, ok)
		}
	}
}

func TestPressureWithoutFull(t *testing.T) {
	p := pressure([]byte("some avg10=1.50 avg60=0.00 avg300=0.00 total=3\n"))
	if p == nil || p.Some.Total != 3000 || p.Some.Avg10 != 1.5 || p.Full != (Stall{}) {
		t.Errorf("%+v", p)
	}
	if pressure(nil) != nil || pressure([]byte("garbage\n")) != nil {
		t.Error("pressure from nothing")
	}
}

func TestOpenFiles(t *testing.T) {
	const head = "Limit                     Soft Limit           Hard Limit           Units     \n"
	for line, want := range map[string]int64{
		"Max open files            20000                20000                files     \n": 20000,
		"Max open files            unlimited            unlimited            files     \n": -1,
	} {
		if got, ok := openFiles([]byte(head + line)); !ok || got != want {
			t.Errorf("%q: %d, %v", line, got, ok)
		}
	}
	if _, ok := openFiles([]byte(head)); ok {
		t.Error("a limit from nothing")
	}
}

func FuzzParsers(f *testing.F) {
	f.Add([]byte("some avg10=0.00 total=0\n8:0 rbytes=1\n8:0 Read 1\na 1\n"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		number(b)
		pressure(b)
		openFiles(b)
		eachKey(b, func([]byte, uint64) {})
		var ds devices
		ds.ioStat(b)
		ds.blkio(b, func(*Device, bool, uint64) {})
	})
}
