// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestFrame(t *testing.T) {
	x := func(n int) string { return strings.Repeat("x", n) }
	for _, c := range []struct {
		name, tail, data, want, rest string
	}{
		{name: "nothing"},
		{name: "one line", data: "a\n", want: "F a\n"},
		{name: "empty lines", data: "\n\n", want: "F \nF \n"},
		{name: "rest stays", data: "a\nb", want: "F a\n", rest: "b"},
		{name: "rest goes on", tail: "a", data: "b\nc", want: "F ab\n", rest: "c"},
		{name: "rest grows", tail: "a", data: "b", rest: "ab"},
		{name: "rest ends", tail: "a", data: "\n", want: "F a\n"},
		{name: "binary", data: "\x00\xff\r\x1b\n", want: "F \x00\xff\r\x1b\n"},
		{name: "limit", data: x(maxLine) + "\n", want: "F " + x(maxLine) + "\n"},
		{name: "limit, no end yet", data: x(maxLine), rest: x(maxLine)},
		{name: "over the limit", data: x(maxLine+1) + "\n", want: "P " + x(maxLine) + "\nF x\n"},
		{name: "over the limit, no end yet", data: x(maxLine + 1), want: "P " + x(maxLine) + "\n", rest: "x"},
		{name: "full rest ends", tail: x(maxLine), data: "\n", want: "F " + x(maxLine) + "\n"},
		{name: "full rest goes on", tail: x(maxLine), data: "yy\n", want: "P " + x(maxLine) + "\nF yy\n"},
		{name: "rest and over", tail: "ab", data: x(2*maxLine) + "\nz", want: "P ab" + x(maxLine-2) + "\nP " + x(maxLine) + "\nF xx\n", rest: "z"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := frame(nil, nil, []byte(c.tail), []byte(c.data), laneOut, false, false)
			rest := c.data[f.used:]
			if !f.tailUsed {
				rest = c.tail + rest
			}
			if string(f.out) != c.want || rest != c.rest || f.more {
				t.Errorf("got %.80q, rest %.80q, more %t", f.out, rest, f.more)
			}
			if open := strings.HasPrefix(c.want[strings.LastIndexByte(strings.TrimSuffix(c.want, "\n"), '\n')+1:], "P"); f.open != open {
				t.Errorf("open is %t", f.open)
			}
		})
	}
}

func TestHead(t *testing.T) {
	for ns, want := range map[int64]string{
		0:                   "1970-01-01T00:00:00.000000000Z stdout ",
		1795465255000000100: "2026-11-23T20:20:55.000000100Z stdout ",
	} {
		if got := string(appendHead(nil, time.Unix(0, ns), "stdout")); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if _, err := time.Parse(time.RFC3339Nano, want[:stampLen]); err != nil {
			t.Error(err)
		}
	}
}

// FuzzFrame feeds data in two pieces, with any room, and wants the content back in lines that
// are as long as they may be.
func FuzzFrame(f *testing.F) {
	f.Add([]byte("a\nb"), 1, 100, true)
	f.Add(bytes.Repeat([]byte("x"), 3*maxLine), maxLine, maxLine+100, false)
	f.Add([]byte("\n\n\x00\xff"), 2, 50, false)
	f.Fuzz(func(t *testing.T, data []byte, cut, room int, oneLine bool) {
		if cut = min(max(cut, 0), len(data)); room < maxLine+3 {
			room = maxLine + 3
		}
		var out, tail []byte
		open := false
		for _, part := range [][]byte{data[:cut], data[cut:]} {
			for {
				f := frame(nil, nil, tail, part, room, open, oneLine)
				again := frame(nil, nil, tail, part, len(f.out), open, false)
				if !bytes.Equal(f.out, again.out) {
					t.Fatal("cannot be built again from its length")
				}
				if len(f.out) > room {
					t.Fatalf("%d bytes in room for %d", len(f.out), room)
				}
				out, open, part = append(out, f.out...), f.open, part[f.used:]
				if f.tailUsed {
					tail = nil
				}
				if !f.more {
					break
				}
				if !f.tailUsed && len(f.out) == 0 {
					t.Fatal("no progress")
				}
			}
			tail = append(bytes.Clone(tail), part...)
			if len(tail) > maxLine {
				t.Fatalf("rest of %d bytes", len(tail))
			}
		}
		if len(tail) > 0 {
			out = frameRest(out, nil, tail)
		}
		var back []byte
		for len(out) > 0 {
			line, rest, ok := bytes.Cut(out, []byte{'\n'})
			if !ok || len(line) < 2 || line[1] != ' ' {
				t.Fatalf("bad line %q", line)
			}
			switch text := line[2:]; {
			case line[0] == 'P' && len(text) == maxLine:
				back = append(back, text...)
			case line[0] == 'F' && len(text) <= maxLine:
				back = append(append(back, text...), '\n')
			default:
				t.Fatalf("line %c of %d bytes", line[0], len(text))
			}
			out = rest
		}
		want := data
		if len(want) > 0 && want[len(want)-1] != '\n' {
			want = append(bytes.Clone(want), '\n')
		}
		if !bytes.Equal(back, want) {
			t.Fatal("content changed")
		}
	})
}
