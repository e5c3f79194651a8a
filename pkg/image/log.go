// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

// withLog sends what containerd's libraries log about an operation to the logger in ctx: their warnings
// and errors, which are mostly about clean-ups that did not work and that nobody else hears of. What
// they say below that is for debugging them.
func withLog(ctx context.Context) context.Context {
	l := logrus.New()
	l.SetOutput(io.Discard)
	l.SetLevel(logrus.WarnLevel)
	l.AddHook(klogHook{klog.FromContext(ctx)})
	return log.WithLogger(ctx, logrus.NewEntry(l))
}

// redirectLog does the same, for the life of the process, for the few lines that containerd writes
// without a context, to logrus' process-wide logger. They are about what a file system cannot do.
var redirectLog = sync.OnceFunc(func() {
	logrus.SetOutput(io.Discard)
	logrus.AddHook(klogHook{klog.Background().V(4)})
})

type klogHook struct{ logger klog.Logger }

// Levels implements logrus.Hook.
func (klogHook) Levels() []logrus.Level {
	return []logrus.Level{logrus.WarnLevel, logrus.ErrorLevel, logrus.FatalLevel, logrus.PanicLevel}
}

// Fire implements logrus.Hook.
func (h klogHook) Fire(e *logrus.Entry) error {
	err, _ := e.Data[logrus.ErrorKey].(error)
	if errdefs.IsNotFound(err) {
		return nil // it wanted to clean up what was gone
	}
	values := []any{"from", "containerd", "err", err}
	for _, key := range slices.Sorted(maps.Keys(e.Data)) {
		if key != logrus.ErrorKey {
			values = append(values, key, e.Data[key])
		}
	}
	h.logger.Info(e.Message, values...)
	return nil
}
