// SPDX-License-Identifier: Apache-2.0

package exitbpf_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/embedcri/embedcri/internal/testenv"
	"github.com/embedcri/embedcri/pkg/exitbpf"
	"github.com/embedcri/embedcri/pkg/exitbpf/exitbpftest"
)

type realWorld struct {
	t  *testing.T
	o  exitbpf.Options
	tr *exitbpf.Tracer
}

func newRealWorld(t *testing.T, o exitbpf.Options) *realWorld {
	o.Dir, o.Capacity = filepath.Join(t.TempDir(), "bpf"), 8
	w := &realWorld{t: t, o: o}
	w.open()
	t.Cleanup(func() {
		if err := w.tr.Close(); err != nil {
			t.Error(err)
		}
		if err := exitbpf.Cleanup(o.Dir); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *realWorld) open() {
	var err error
	if w.tr, err = exitbpf.Open(w.o); err != nil {
		w.t.Fatal(err)
	}
}

func (w *realWorld) Tracer() exitbpftest.Tracer { return w.tr }
func (w *realWorld) Lives() bool                { return w.tr.Mode().BPF }

func (w *realWorld) Restart() exitbpftest.Tracer {
	if err := w.tr.Close(); err != nil {
		w.t.Error(err)
	}
	w.open()
	return w.tr
}

func (w *realWorld) Start() (int, func(int)) {
	r, in, err := os.Pipe()
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", "read code; exit $code"}, &os.ProcAttr{Files: []*os.File{r}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = in.Close() })
	pid := p.Pid
	_ = p.Release()
	return pid, func(code int) { _, _ = fmt.Fprintln(in, code) }
}

func TestConformance(t *testing.T) {
	t.Run("bpf", func(t *testing.T) {
		testenv.Require(t, testenv.Root, testenv.BPF)
		exitbpftest.Conformance(t, 8, func(t *testing.T) exitbpftest.World { return newRealWorld(t, exitbpf.Options{Require: true}) })
	})
	t.Run("degraded", func(t *testing.T) {
		exitbpftest.Conformance(t, 8, func(t *testing.T) exitbpftest.World {
			return newRealWorld(t, exitbpf.WithoutBPF(exitbpf.Options{}))
		})
	})
}
