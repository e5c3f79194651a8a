// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"path/filepath"

	"github.com/embedcri/embedcri/pkg/config"
	"github.com/embedcri/embedcri/pkg/ioattach"
)

func keeperSocket(c *config.Config) string { return filepath.Join(c.State, "keeper.sock") }

// openKeeper finds the node's keeper process, or starts it.
func openKeeper(ctx context.Context, c *config.Config) (ioattach.Keeper, error) {
	program, err := siblingProgram("embedcri-keeper")
	if err != nil {
		return nil, err
	}
	return ioattach.OpenKeeper(ctx, ioattach.KeeperOptions{Socket: keeperSocket(c), Command: []string{program}})
}
