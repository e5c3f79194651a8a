// SPDX-License-Identifier: Apache-2.0

package main

import "golang.org/x/sync/errgroup"

// eightAtOnce calls f for 0 to n-1, eight at a time, and stops at the first error.
func eightAtOnce(n int, f func(i int) error) error {
	var g errgroup.Group
	g.SetLimit(8)
	for i := range n {
		g.Go(func() error { return f(i) })
	}
	return g.Wait()
}
