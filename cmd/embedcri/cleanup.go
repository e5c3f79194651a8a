// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/embedcri/embedcri/internal/namespace"
	"github.com/embedcri/embedcri/pkg/config"
	"github.com/embedcri/embedcri/pkg/exitbpf"
	"github.com/embedcri/embedcri/pkg/ioattach"
	"github.com/embedcri/embedcri/pkg/store"
)

// cleanupCommand removes what outlives the daemon on purpose: the pinned tracer, the keeper, the mount of namespace pins, the
// embedded bridge. Images and records stay. It refuses while a daemon runs or pods are on record, as they need all this.
func cleanupCommand(ctx context.Context, c *config.Config, _ []string) error {
	if err := c.Validate(); err != nil {
		return err
	}
	unlock, err := lockDir(c.State)
	if err != nil {
		return err
	}
	defer unlock()
	if err := noPods(c); err != nil {
		return err
	}
	return errors.Join(
		exitbpf.Cleanup(c.BPF),
		ioattach.StopKeeper(keeperSocket(c)),
		namespace.Unprepare(c.NamespaceDir()),
		removeBridge(ctx, c),
	)
}

func noPods(c *config.Config) error {
	s, err := store.Open(c.RecordDir())
	if err != nil {
		return err
	}
	pods, err := s.Kind("pods")
	if err != nil {
		return err
	}
	ids, err := pods.List()
	if err != nil {
		return err
	}
	if len(ids) > 0 {
		return fmt.Errorf("%d pods are on record in %s; stop and remove them first: %w", len(ids), c.RecordDir(), errdefs.ErrFailedPrecondition)
	}
	return nil
}

// removeBridge deletes the bridge of the embedded network, and what CNI keeps for it, if this daemon is configured to make one.
func removeBridge(ctx context.Context, c *config.Config) error {
	b := networkOptions(c).Bridge
	if !b.Enabled {
		return nil
	}
	return b.Remove(ctx)
}
