// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestStopSignal(t *testing.T) {
	const none = runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT
	for _, tt := range []struct {
		image string
		cri   runtimeapi.Signal
		want  unix.Signal
		bad   bool
	}{
		{"", none, unix.SIGTERM, false},
		{"SIGINT", none, unix.SIGINT, false},
		{"int", none, unix.SIGINT, false},
		{"3", none, unix.SIGQUIT, false},
		{"SIGRTMIN+3", none, 37, false},
		{"RTMAX-2", none, 62, false},
		{"SIGRTMIN", none, 34, false},
		{"SIGPOLL", none, unix.SIGIO, false},
		{"SIGINT", runtimeapi.Signal_SIGNAL_SIGUSR1, unix.SIGUSR1, false},
		{"nonsense", runtimeapi.Signal_SIGNAL_SIGUSR1, unix.SIGUSR1, false},
		{"", runtimeapi.Signal_SIGNAL_SIGRTMINPLUS15, 49, false},
		{"", runtimeapi.Signal_SIGNAL_SIGRTMAXMINUS14, 50, false},
		{"", runtimeapi.Signal_SIGNAL_SIGRTMAX, 64, false},
		{"", runtimeapi.Signal_SIGNAL_SIGCLD, unix.SIGCHLD, false},
		{"", runtimeapi.Signal_SIGNAL_SIGIOT, unix.SIGABRT, false},
		{"", 1000, unix.SIGTERM, true},
		{"nonsense", none, unix.SIGTERM, true},
		{"0", none, unix.SIGTERM, true},
		{"65", none, unix.SIGTERM, true},
		{"-9", none, unix.SIGTERM, true},
		{"SIGRTMIN+31", none, unix.SIGTERM, true},
		{"SIGRTMIN-1", none, unix.SIGTERM, true},
		{"SIGRTMIN+", none, unix.SIGTERM, true},
		{"SIG", none, unix.SIGTERM, true},
		{"SIGTERM\n", none, unix.SIGTERM, true},
	} {
		got, err := StopSignal(tt.image, tt.cri)
		if got != tt.want || (err != nil) != tt.bad || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("StopSignal(%q, %v) = %v, %v", tt.image, tt.cri, got, err)
		}
	}
}

// TestEveryCRISignal: no value of the API is unknown here.
func TestEveryCRISignal(t *testing.T) {
	for n, name := range runtimeapi.Signal_name {
		if s, err := StopSignal("", runtimeapi.Signal(n)); err != nil || s < 1 || s > 64 {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
}

func FuzzStopSignal(f *testing.F) {
	for _, s := range []string{"SIGTERM", "15", "SIGRTMIN+3", "RTMAX-", "RTMIN+999999999999", "\x00", "sigſ"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := StopSignal(s, runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT)
		if got < 1 || got > 64 {
			t.Fatalf("StopSignal(%q) = %d", s, got)
		}
		if err != nil && got != unix.SIGTERM {
			t.Fatalf("StopSignal(%q) = %v with an error", s, got)
		}
		if err == nil && strings.ContainsAny(s, " \n\x00/") {
			t.Fatalf("StopSignal(%q) accepts it", s)
		}
	})
}
