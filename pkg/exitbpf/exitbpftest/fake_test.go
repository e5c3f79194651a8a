// SPDX-License-Identifier: Apache-2.0

package exitbpftest_test

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/pkg/exitbpf"
	"github.com/embedcri/embedcri/pkg/exitbpf/exitbpftest"
)

type fakeWorld struct{ f *exitbpftest.Fake }

func (w *fakeWorld) Tracer() exitbpftest.Tracer  { return w.f }
func (w *fakeWorld) Restart() exitbpftest.Tracer { w.f = w.f.Restart(); return w.f }
func (w *fakeWorld) Lives() bool                 { return true }
func (w *fakeWorld) Start() (int, func(int)) {
	pid := w.f.Start()
	return pid, func(code int) { w.f.Die(pid, exitbpf.Exit{Status: unix.WaitStatus(code << 8)}) }
}

func TestFake(t *testing.T) {
	exitbpftest.Conformance(t, 8, func(t *testing.T) exitbpftest.World { return &fakeWorld{exitbpftest.New(8)} })
}

func TestFakeLose(t *testing.T) {
	f := exitbpftest.New(0)
	pid := f.Start()
	w, err := f.Watch(1, pid)
	if err != nil {
		t.Fatal(err)
	}
	f.Lose(pid)
	<-w.Done()
	if _, err := w.Exit(); !errors.Is(err, exitbpf.ErrLost) {
		t.Error(err)
	}
	w, err = f.Restart().Watch(1, pid)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Exit(); !errors.Is(err, exitbpf.ErrLost) {
		t.Error(err)
	}
}
