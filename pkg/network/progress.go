// SPDX-License-Identifier: Apache-2.0

package network

import "context"

type progressKey struct{}

// WithProgress returns a ctx with which [Network.Attach] and [Network.Detach] tell f what they are
// at from now on: each plug-in by its verb and name ("CNI ADD bridge"). It is for those who wait,
// and for finding out what took how long. f is called on the caller's goroutine.
func WithProgress(ctx context.Context, f func(step string)) context.Context {
	return context.WithValue(ctx, progressKey{}, f)
}

func enter(ctx context.Context, step string) {
	if f, ok := ctx.Value(progressKey{}).(func(string)); ok {
		f(step)
	}
}
