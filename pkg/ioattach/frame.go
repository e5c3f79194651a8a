// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"bytes"
	"time"
)

// maxLine is the most content bytes one log line carries; a longer line becomes several lines
// tagged P and a last one tagged F. It is what containerd and dockershim always used and what
// the kubelet's reader expects to have to put together again
// (k8s.io/cri-client/pkg/logs, parseCRILog).
const maxLine = 16 << 10

// stampLen is the length of a time stamp: RFC 3339 in UTC, always nine digits of fraction, so
// that stamps sort as text.
const stampLen = len("2006-01-02T15:04:05.000000000Z")

// headLen is the room one line's head takes: stamp, stream, tag and three spaces.
const headLen = stampLen + len(" stdout F ")

// appendHead appends what every log line of one batch begins with, up to and without the tag.
func appendHead(dst []byte, at time.Time, stream string) []byte {
	dst = at.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000000000Z")
	dst = append(dst, ' ')
	dst = append(dst, stream...)
	return append(dst, ' ')
}

// framed says how far frame came.
type framed struct {
	out      []byte // dst with whole log lines appended
	used     int    // bytes of data that went into them
	tailUsed bool   // the tail went into them
	open     bool   // the last line is tagged P: its line goes on
	more     bool   // stopped by room or oneLine, not for want of data
}

// frame turns container output into CRI log lines:
//
//	<RFC3339Nano> <stream> <F|P> <content>\n
//
// tail is an earlier unterminated rest (at most maxLine bytes) that data continues. An
// unterminated rest of tail+data is left alone unless it passes maxLine, so a line that comes
// in several reads is still one log line. frame stops when the next line would take dst past
// room bytes, and with oneLine after the first F. It is pure: the same input gives the same
// bytes, which recovery relies on (see lane.go). open tells if the stream's last line was a P.
func frame(dst, head, tail, data []byte, room int, open, oneLine bool) framed {
	f := framed{out: dst, open: open}
	for {
		window := data[f.used:]
		if most := maxLine - len(tail) + 1; len(window) > most {
			window = window[:most]
		}
		tag, skip := byte('F'), 1
		end := bytes.IndexByte(window, '\n')
		if end < 0 {
			if len(tail)+len(window) <= maxLine {
				return f // an unterminated rest: it waits for its end
			}
			tag, skip, end = 'P', 0, maxLine-len(tail)
		}
		if len(f.out)+len(head)+len(tail)+end+3 > room {
			f.more = true
			return f
		}
		f.out = append(f.out, head...)
		f.out = append(f.out, tag, ' ')
		f.out = append(f.out, tail...)
		f.out = append(f.out, window[:end]...)
		f.out = append(f.out, '\n')
		f.used += end + skip
		f.tailUsed, tail = true, nil
		f.open = tag == 'P'
		if oneLine && !f.open {
			f.more = true
			return f
		}
	}
}

// frameRest makes the last, unterminated rest of a stream an F line.
func frameRest(dst, head, tail []byte) []byte {
	dst = append(dst, head...)
	dst = append(dst, 'F', ' ')
	dst = append(dst, tail...)
	return append(dst, '\n')
}
