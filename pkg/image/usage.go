// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
)

// usageFresh is for how long a measured root file system is not measured again.
const usageFresh = 10 * time.Second

// Usage is disk space that something takes.
type Usage struct {
	// Bytes are allocated bytes, Inodes files and directories.
	Bytes, Inodes uint64
	// At is when that was measured.
	At time.Time
}

// StoreUsage is what the CRI's ImageFsInfo tells.
type StoreUsage struct {
	// Mountpoint is a directory on the file system that both are on.
	Mountpoint string
	// Images are the unpacked layers and the kept blobs, Containers the writable layers.
	Images, Containers Usage
}

// Usage tells what images and containers take on disk. Nothing is walked in the call: images are
// counted when one comes or goes, and writable layers as RootfsUsage does.
func (s *Store) Usage(ctx context.Context) (StoreUsage, error) {
	u := StoreUsage{Mountpoint: s.snapshotDir, Images: s.sizes.Load().Images}
	u.Containers.At = time.Now()
	ids, err := s.Rootfses(ctx)
	if err != nil {
		return StoreUsage{}, err
	}
	for _, id := range ids {
		one, err := s.RootfsUsage(ctx, id)
		if err != nil {
			continue // removed meanwhile
		}
		u.Containers.Bytes += one.Bytes
		u.Containers.Inodes += one.Inodes
		if one.At.Before(u.Containers.At) {
			u.Containers.At = one.At
		}
	}
	return u, nil
}

// measure adds up what the databases know about layers and blobs.
func (s *Store) measure(ctx context.Context) error {
	u := Usage{At: time.Now()}
	var layers []string
	err := s.snapshots.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Kind == snapshots.KindCommitted {
			layers = append(layers, info.Name)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("measure layers: %w", err)
	}
	for _, name := range layers {
		one, err := s.snapshots.Usage(ctx, name)
		if err != nil {
			continue // collected meanwhile
		}
		u.Bytes += uint64(max(one.Size, 0))
		u.Inodes += uint64(max(one.Inodes, 0))
	}
	err = s.content.Walk(ctx, func(info content.Info) error {
		u.Bytes += uint64(max(info.Size, 0))
		u.Inodes++
		return nil
	})
	if err != nil {
		return fmt.Errorf("measure blobs: %w", err)
	}
	s.sizes.Store(&StoreUsage{Images: u})
	return nil
}

// RootfsUsage tells what a container has written into its root file system. It walks the writable layer
// in the first call and then in the background, at most every ten seconds and only while somebody asks;
// until that is done it returns what was measured last, with its time.
func (s *Store) RootfsUsage(ctx context.Context, containerID string) (Usage, error) {
	return s.usages.get(containerID, func() (Usage, error) {
		u, err := s.snapshots.Usage(s.scoped(context.WithoutCancel(ctx)), rootfsKey(containerID))
		if err != nil {
			return Usage{}, fmt.Errorf("usage of root file system %s: %w", containerID, err)
		}
		return Usage{Bytes: uint64(max(u.Size, 0)), Inodes: uint64(max(u.Inodes, 0)), At: time.Now()}, nil
	}, s.wg.Go)
}

// usageCache remembers measured root file systems. The zero value is ready.
type usageCache struct {
	mu      sync.Mutex
	m       map[string]*usageEntry
	walking sync.Mutex // one walk at a time on the whole node
}

type usageEntry struct {
	usage   Usage
	walking bool
}

func (c *usageCache) get(id string, walk func() (Usage, error), background func(func())) (Usage, error) {
	c.mu.Lock()
	e := c.m[id]
	if e == nil {
		c.mu.Unlock()
		return c.refresh(id, walk)
	}
	defer c.mu.Unlock()
	if time.Since(e.usage.At) > usageFresh && !e.walking {
		e.walking = true
		background(func() { _, _ = c.refresh(id, walk) }) // its error is that of a container being removed
	}
	return e.usage, nil
}

func (c *usageCache) refresh(id string, walk func() (Usage, error)) (Usage, error) {
	c.walking.Lock()
	u, err := walk()
	c.walking.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		delete(c.m, id)
		return Usage{}, err
	}
	if c.m == nil {
		c.m = map[string]*usageEntry{}
	}
	c.m[id] = &usageEntry{usage: u}
	return u, nil
}

func (c *usageCache) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.m, id)
}

// rootfsKey names the snapshot of a container's root file system.
func rootfsKey(containerID string) string { return rootfsPrefix + containerID }

const rootfsPrefix = "container-"

// Rootfses lists the containers that own a root file system, for the reconciler, in no order.
func (s *Store) Rootfses(ctx context.Context) ([]string, error) {
	var ids []string
	err := s.snapshots.Walk(s.scoped(ctx), func(_ context.Context, info snapshots.Info) error {
		if id, ok := strings.CutPrefix(info.Name, rootfsPrefix); ok {
			ids = append(ids, id)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list root file systems: %w", err)
	}
	return ids, nil
}
