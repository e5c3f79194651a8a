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

// measurePull pulls an image of several layers and removes it.
func measurePull(ctx context.Context, b *bed) error {
	const layers, rounds = 8, 3
	img, err := testregistry.Random(1, layers, b.o.pullMB*1_000_000/layers)
	if err != nil {
		return err
	}
	ref, err := b.registry.AddImage("big:1", img)
	if err != nil {
		return err
	}
	return b.turns(ctx, rounds, func(_ int, p *peer) error {
		if p.handler != "" {
			return nil // images do not depend on it
		}
		unix.Sync() // what the one before has written is not this one's business
		began := time.Now()
		if err := p.pull(ctx, ref); err != nil {
			return err
		}
		b.results.add("pull", fmt.Sprintf("pull and unpack, %d MB in %d layers", b.o.pullMB, layers), "s", p.name, time.Since(began).Seconds())
		_, err := p.images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
		return err
	})
}
