// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"bytes"
	"strconv"
)

// The parsers are pure and forgiving: a line they do not know is skipped, because kernels add lines. Numbers are clipped at 0
// where they cannot be read, never invented.

// number reads a file that holds one number, or "max". It is 0 and not ok for what is neither a number nor small enough to be a limit:
// v1 writes "no limit" as the largest multiple of the page size that fits into an int64.
func number(b []byte) (n uint64, ok bool) {
	n, err := strconv.ParseUint(string(bytes.TrimSpace(b)), 10, 64)
	if err != nil || n >= noLimit {
		return 0, false
	}
	return n, true
}

const noLimit = 1 << 62

// eachKey calls f for each line "key value".
func eachKey(b []byte, f func(key []byte, value uint64)) {
	for line := range bytes.Lines(b) {
		key, rest, ok := bytes.Cut(line, []byte(" "))
		if !ok {
			continue
		}
		if v, err := strconv.ParseUint(string(bytes.TrimSpace(rest)), 10, 64); err == nil {
			f(key, v)
		}
	}
}

// pressure reads a file of PSI:
//
//	some avg10=0.00 avg60=0.00 avg300=0.00 total=0
//	full avg10=0.00 avg60=0.00 avg300=0.00 total=0
//
// Kernels before 5.13 have no line "full" for the CPU.
func pressure(b []byte) *Pressure {
	var p Pressure
	found := false
	for line := range bytes.Lines(b) {
		fields := bytes.Fields(line)
		if len(fields) == 0 {
			continue
		}
		var s *Stall
		switch string(fields[0]) {
		case "some":
			s = &p.Some
		case "full":
			s = &p.Full
		default:
			continue
		}
		found = true
		for _, f := range fields[1:] {
			key, value, _ := bytes.Cut(f, []byte("="))
			switch string(key) {
			case "avg10":
				s.Avg10, _ = strconv.ParseFloat(string(value), 64)
			case "avg60":
				s.Avg60, _ = strconv.ParseFloat(string(value), 64)
			case "avg300":
				s.Avg300, _ = strconv.ParseFloat(string(value), 64)
			case "total":
				us, _ := strconv.ParseUint(string(value), 10, 64)
				s.Total = us * 1000
			}
		}
	}
	if !found {
		return nil
	}
	return &p
}

// devices collects per-device numbers by major and minor.
type devices []Device

func (ds *devices) at(number []byte) *Device {
	major, minor, ok := bytes.Cut(number, []byte(":"))
	if !ok {
		return nil
	}
	ma, err1 := strconv.ParseUint(string(major), 10, 32)
	mi, err2 := strconv.ParseUint(string(minor), 10, 32)
	if err1 != nil || err2 != nil {
		return nil
	}
	for i := range *ds {
		if d := &(*ds)[i]; d.Major == uint32(ma) && d.Minor == uint32(mi) {
			return d
		}
	}
	*ds = append(*ds, Device{Major: uint32(ma), Minor: uint32(mi)})
	return &(*ds)[len(*ds)-1]
}

// ioStat reads v2's io.stat: "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0". A device without traffic may stand there
// without numbers, and is left out.
func (ds *devices) ioStat(b []byte) {
	for line := range bytes.Lines(b) {
		fields := bytes.Fields(line)
		if len(fields) < 2 {
			continue
		}
		d := ds.at(fields[0])
		if d == nil {
			continue
		}
		for _, f := range fields[1:] {
			key, value, _ := bytes.Cut(f, []byte("="))
			v, err := strconv.ParseUint(string(value), 10, 64)
			if err != nil {
				continue
			}
			switch string(key) {
			case "rbytes":
				d.ReadBytes = v
			case "wbytes":
				d.WriteBytes = v
			case "rios":
				d.Reads = v
			case "wios":
				d.Writes = v
			}
		}
	}
}

// blkio reads one of v1's blkio.throttle files: "8:0 Read 1". set stores what a device has of either operation.
func (ds *devices) blkio(b []byte, set func(d *Device, write bool, v uint64)) {
	for line := range bytes.Lines(b) {
		fields := bytes.Fields(line)
		if len(fields) != 3 {
			continue // "Total 3"
		}
		write := string(fields[1]) == "Write"
		if !write && string(fields[1]) != "Read" {
			continue
		}
		v, err := strconv.ParseUint(string(fields[2]), 10, 64)
		if err != nil {
			continue
		}
		if d := ds.at(fields[0]); d != nil {
			set(d, write, v)
		}
	}
}

// openFiles reads the soft limit of open files from /proc/<pid>/limits: -1 without a limit. The name ends where the value's column
// begins (proc_pid_limits, fs/proc/base.c).
func openFiles(b []byte) (soft int64, ok bool) {
	for line := range bytes.Lines(b) {
		rest, found := bytes.CutPrefix(line, []byte("Max open files "))
		if !found {
			continue
		}
		fields := bytes.Fields(rest)
		if len(fields) == 0 {
			return 0, false
		}
		if string(fields[0]) == "unlimited" {
			return -1, true
		}
		n, err := strconv.ParseInt(string(fields[0]), 10, 64)
		return n, err == nil
	}
	return 0, false
}
