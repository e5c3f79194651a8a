// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testregistry"
)

// measurePull pulls images of several layers. Each round has an image of its own, and none is removed before the end: for minutes
// after many files were deleted, ext4 without a journal is slow at making new ones near them, whoever does it.
func measurePull(ctx context.Context, b *bed) error {
	for _, shape := range []struct {
		id, title string
		layers    int
	}{
		{"pull", "8 layers", 8},
		{"pull/one", "1 layer", 1},
	} {
		rounds := 2 * b.o.rounds
		refs := make([]string, rounds)
		err := eightAtOnce(rounds, func(i int) error {
			img, err := testregistry.Random(uint64(100*shape.layers+i), shape.layers, b.o.pullMB*1_000_000/shape.layers)
			if err != nil {
				return err
			}
			refs[i], err = b.registry.AddImage(fmt.Sprintf("big%d:%d", shape.layers, i), img)
			return err
		})
		if err != nil {
			return err
		}
		err = b.turns(ctx, rounds, func(i int, p *peer) error {
			if p.handler != "" {
				return nil // images do not depend on it
			}
			unix.Sync() // what the one before has written is not this one's business
			cpu, began := p.cpu(), time.Now()
			if err := p.pull(ctx, refs[i]); err != nil {
				return err
			}
			took := time.Since(began).Seconds()
			if p.command != nil {
				b.results.add(shape.id+"/cpu", "– CPU of the runtime", "s", p.name, (p.cpu()-cpu)/1e3)
			}
			b.say("%s pulls %s in %.2f s", p.name, refs[i], took)
			b.results.add(shape.id, fmt.Sprintf("pull and unpack, %d MB in %s", b.o.pullMB, shape.title), "s", p.name, took)
			return nil
		})
		if err != nil {
			return err
		}
		for _, p := range b.daemons() {
			for _, ref := range refs {
				_, err := p.images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}
