// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Real-time signals as container runtimes number them: glibc keeps 32 and 33 for its threads, so its SIGRTMIN is 34.
const (
	sigRTMin = 34
	sigRTMax = 64
)

// DefaultStopSignal asks a container to stop if neither its configuration nor its image names another.
const DefaultStopSignal = unix.SIGTERM

// StopSignal returns the signal that asks a container to stop: the CRI's stop_signal, else the image's StopSignal, else
// SIGTERM. An image may write SIGTERM, TERM, 15, SIGRTMIN+3 or RTMAX-2. If what it says is no signal, the error is
// errdefs.ErrInvalidArgument and the signal is SIGTERM, so that a caller may still go on.
func StopSignal(image string, cri runtimeapi.Signal) (unix.Signal, error) {
	if cri != runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		name, ok := runtimeapi.Signal_name[int32(cri)]
		if !ok {
			return DefaultStopSignal, invalid("stop_signal", "%d is not known", cri)
		}
		// SIGNAL_SIGRTMINPLUS1 and SIGNAL_SIGRTMAXMINUS1 are RTMIN+1 and RTMAX-1 without the sign.
		name = strings.NewReplacer("SIGNAL_", "", "MINPLUS", "MIN+", "MAXMINUS", "MAX-").Replace(name)
		if s, ok := parseSignal(name); ok {
			return s, nil
		}
		return DefaultStopSignal, invalid("stop_signal", "%v is unknown to this platform", cri)
	}
	if image == "" {
		return DefaultStopSignal, nil
	}
	s, ok := parseSignal(image)
	if !ok {
		return DefaultStopSignal, invalid("StopSignal of the image", "%q is not a signal", image)
	}
	return s, nil
}

// parseSignal reads a signal's number or name.
func parseSignal(s string) (unix.Signal, bool) {
	if n, err := strconv.ParseUint(s, 10, 8); err == nil {
		return unix.Signal(n), n >= 1 && n <= sigRTMax
	}
	s = strings.TrimPrefix(strings.ToUpper(s), "SIG")
	for _, rt := range []struct {
		name string
		at   int
		sign byte
	}{{"RTMIN", sigRTMin, '+'}, {"RTMAX", sigRTMax, '-'}} {
		off, ok := strings.CutPrefix(s, rt.name)
		if !ok {
			continue
		}
		if off == "" {
			return unix.Signal(rt.at), true
		}
		n, err := strconv.ParseUint(off[1:], 10, 8)
		if off[0] != rt.sign || err != nil || n > sigRTMax-sigRTMin {
			return 0, false
		}
		if rt.sign == '-' {
			return unix.Signal(rt.at - int(n)), true
		}
		return unix.Signal(rt.at + int(n)), true
	}
	switch s { // second names, which the table of x/sys lacks
	case "CLD":
		return unix.SIGCHLD, true
	case "IOT":
		return unix.SIGABRT, true
	case "POLL":
		return unix.SIGIO, true
	}
	n := unix.SignalNum("SIG" + s)
	return n, n != 0
}
