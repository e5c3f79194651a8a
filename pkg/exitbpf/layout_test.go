// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// The Go structs are those of the BPF object: names, offsets, sizes.
func TestLayout(t *testing.T) {
	spec, err := loadExit()
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]any{"proc": proc{}, "slot": slot{}, "sender": rawSender{}, "oom": rawOOM{}} {
		var s *btf.Struct
		for _, m := range spec.Maps { // map types alone reach everything
			for _, ty := range []btf.Type{m.Key, m.Value} {
				if found := findStruct(ty, name); found != nil {
					s = found
				}
			}
		}
		if s == nil {
			t.Fatalf("no struct %s in the object", name)
		}
		goType := reflect.TypeOf(v)
		if uintptr(s.Size) != goType.Size() || len(s.Members) != goType.NumField() {
			t.Errorf("%s: %d bytes and %d fields in C, %d and %d in Go", name, s.Size, len(s.Members), goType.Size(), goType.NumField())
			continue
		}
		end := uint32(0)
		for i, m := range s.Members {
			f := goType.Field(i)
			size, err := btf.Sizeof(m.Type)
			if err != nil {
				t.Fatal(err)
			}
			if strings.ReplaceAll(m.Name, "_", "") != strings.ToLower(f.Name) || uintptr(m.Offset.Bytes()) != f.Offset || uintptr(size) != f.Type.Size() {
				t.Errorf("%s: %s at %d, %d bytes in C; %s at %d, %d bytes in Go", name, m.Name, m.Offset.Bytes(), size, f.Name, f.Offset, f.Type.Size())
			}
			if signed := f.Type.Kind() == reflect.Int32; signed != isSigned(m.Type) {
				t.Errorf("%s.%s: signed in one language only", name, m.Name)
			}
			if m.Offset.Bytes() != end {
				t.Errorf("%s has a hole before %s", name, m.Name)
			}
			end += uint32(size)
		}
		if end != s.Size {
			t.Errorf("%s has a hole at its end", name)
		}
	}
	if m := spec.Maps["stats"]; m.MaxEntries != statCount {
		t.Errorf("%d kernel counters in C, %d in Go", m.MaxEntries, statCount)
	}
	for n, p := range programs() {
		if spec.Programs[p] == nil {
			t.Errorf("no program %s for link %s", p, n)
		}
	}
}

func findStruct(t btf.Type, name string) *btf.Struct {
	s, ok := btf.UnderlyingType(t).(*btf.Struct)
	if !ok {
		return nil
	}
	if s.Name == name {
		return s
	}
	for _, m := range s.Members {
		if f := findStruct(m.Type, name); f != nil {
			return f
		}
	}
	return nil
}

func isSigned(t btf.Type) bool {
	i, ok := btf.UnderlyingType(t).(*btf.Int)
	return ok && i.Encoding == btf.Signed
}

func TestSlotExit(t *testing.T) {
	kernel := rawSender{At: 1, Signal: 9, Flags: senderKernel}
	human := rawSender{At: 1, Signal: 9, Pid: 77, UID: 5, Comm: [16]byte{'k', 'i', 'l', 'l'}}
	for name, c := range map[string]struct {
		s    slot
		want func(Exit) bool
		lost bool
	}{
		"code":               {s: slot{State: stateExited, Code: 3 << 8}, want: func(e Exit) bool { return e.Status.ExitStatus() == 3 && e.Killer == nil && !e.OOM }},
		"zero":               {s: slot{State: stateExited}, want: func(e Exit) bool { return e.Status == 0 && e.Source == SourceBPF }},
		"core":               {s: slot{State: stateExited, Code: 0x8b}, want: func(e Exit) bool { return e.Status.CoreDump() && e.Status.Signal() == unix.SIGSEGV }},
		"armed":              {s: slot{State: stateArmed}, lost: true},
		"being written":      {s: slot{State: stateWriting, Code: 1 << 8}, lost: true},
		"nothing":            {lost: true},
		"embedshim's 128":    {s: slot{State: stateExited, Code: 128}, lost: true},
		"negative":           {s: slot{State: stateExited, Code: -1}, lost: true},
		"too large":          {s: slot{State: stateExited, Code: 0x10000}, lost: true},
		"stopped":            {s: slot{State: stateExited, Code: 0x137f}, lost: true},
		"both":               {s: slot{State: stateExited, Code: 0x109}, lost: true},
		"oom":                {s: slot{State: stateExited, Code: 9, Flags: exitOOM, Kill: kernel}, want: func(e Exit) bool { return e.OOM && e.Killer.Kernel }},
		"oom, nobody seen":   {s: slot{State: stateExited, Code: 9, Flags: exitOOM}, want: func(e Exit) bool { return e.OOM && e.Killer == nil }},
		"killed before oom":  {s: slot{State: stateExited, Code: 9, Flags: exitOOM, Kill: human}, want: func(e Exit) bool { return !e.OOM && e.Killer.Pid == 77 && e.Killer.Comm == "kill" }},
		"exit with reserves": {s: slot{State: stateExited, Code: 1 << 8, Flags: exitOOM}, want: func(e Exit) bool { return !e.OOM }},
		"other signal":       {s: slot{State: stateExited, Code: 15, Other: rawSender{At: 1, Signal: 10}, Kill: human}, want: func(e Exit) bool { return e.Killer == nil }},
		"timer":              {s: slot{State: stateExited, Code: 14, Other: rawSender{At: 1, Signal: 14, Code: siTimer}}, want: func(e Exit) bool { return e.Killer.Kernel }},
		"broken pipe":        {s: slot{State: stateExited, Code: 13, Other: rawSender{At: 1, Signal: 13, Flags: senderNoInfo}}, want: func(e Exit) bool { return e.Killer.Kernel }},
		"cgroup.kill":        {s: slot{State: stateExited, Code: 9, Kill: rawSender{At: 1, Signal: 9, Flags: senderNoInfo, Pid: 4}}, want: func(e Exit) bool { return !e.Killer.Kernel && e.Killer.Pid == 4 }},
	} {
		e, err := c.s.exit(proc{Pid: 4}, clock{})
		if c.lost != errors.Is(err, ErrLost) || err == nil && !c.want(e) {
			t.Errorf("%s: %+v by %+v, %v", name, e, e.Killer, err)
		}
	}
}

// Whatever the bytes: no panic, and either an error or a status that wait(2) can have.
func FuzzSlot(f *testing.F) {
	f.Add(make([]byte, 224))
	f.Add(bytes.Repeat([]byte{0xff}, 224))
	good, _ := binary.Append(nil, binary.NativeEndian, proc{Pid: 1})
	good, _ = binary.Append(good, binary.NativeEndian, slot{State: stateExited, Code: 9, Kill: rawSender{At: 5, Signal: 9}})
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		var p proc
		var s slot
		n, err := binary.Decode(b, binary.NativeEndian, &p)
		if err != nil {
			return
		}
		if _, err := binary.Decode(b[n:], binary.NativeEndian, &s); err != nil {
			return
		}
		e, err := s.exit(p, clock{})
		if err != nil {
			if !errors.Is(err, ErrLost) || e != (Exit{}) {
				t.Errorf("%+v, %v", e, err)
			}
			return
		}
		if s.State != stateExited || e.Status.Exited() == e.Status.Signaled() || e.Status.Stopped() || e.Status.Continued() {
			t.Errorf("%#x", e.Status)
		}
		if e.Killer != nil && (!e.Status.Signaled() || e.Killer.Signal != e.Status.Signal() || !utf8.ValidString(e.Killer.Comm)) {
			t.Errorf("%+v", e.Killer)
		}
		if e.OOM && e.Status.Signal() != unix.SIGKILL {
			t.Errorf("OOM, but %#x", e.Status)
		}
	})
}

func FuzzStat(f *testing.F) {
	f.Add([]byte("1 (a) b) S 1 2 3"))
	f.Add([]byte("9 (x) Z" + strings.Repeat(" 5", 49)))
	f.Add([]byte(")"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		if s, err := parseStat(b); err == nil {
			_ = s.dead(-1)
		}
	})
}

func TestParseStat(t *testing.T) {
	line := "42 (a ) Z 1) Z" + strings.Repeat(" 1", 18) + " 777" + strings.Repeat(" 2", 29) + " 1280\n"
	if s, err := parseStat([]byte(line)); err != nil || s != (stat{state: 'Z', start: 777, code: 1280}) {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := parseStat([]byte("42 (a) S 1 2")); err == nil {
		t.Error("a torn line is no error")
	}
}

func TestClock(t *testing.T) {
	c, err := newClock()
	if err != nil {
		t.Fatal(err)
	}
	boot := c.bootNow()
	if d := time.Since(c.wall(boot)); d < -time.Millisecond || d > 100*time.Millisecond {
		t.Errorf("now is %v ago", d)
	}
	if d := c.wall(boot).Sub(c.wall(boot - 3e9)); d < 3*time.Second-time.Millisecond || d > 3*time.Second+time.Millisecond {
		t.Errorf("three seconds are %v", d)
	}
	// In a time namespace that is an hour ahead everything we read is.
	ahead := clock{offset: time.Hour}
	if got := boot - ahead.bootNow(); got < uint64(time.Hour-time.Second) || got > uint64(time.Hour) {
		t.Errorf("offset %v", time.Duration(got))
	}
	if ahead.ticks(360000+5) != 5 {
		t.Error("start time is off")
	}
}

func TestKeyOf(t *testing.T) {
	id := "0123456789abcdef" + strings.Repeat("f", 48)
	if k, err := KeyOf(id); err != nil || k != 0x0123456789abcdef || k.String() != id[:16] {
		t.Errorf("%v, %v", k, err)
	}
	for _, bad := range []string{"", "0123", strings.Repeat("g", 64)} {
		if _, err := KeyOf(bad); err == nil {
			t.Errorf("%q is a key", bad)
		}
	}
}
