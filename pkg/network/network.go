// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containernetworking/cni/libcni"
	"k8s.io/klog/v2"
)

// Defaults of [Options].
const (
	DefaultMaxParallel    = 8
	DefaultTimeout        = 2 * time.Minute
	DefaultStatusInterval = 10 * time.Second
	DefaultPollInterval   = 30 * time.Second
)

// Options are the node's settings. A zero number means its default.
type Options struct {
	// ConfDir is the directory of network configurations (/etc/cni/net.d). It may come and go.
	ConfDir string
	// BinDirs are searched for plug-ins, in this order (/opt/cni/bin).
	BinDirs []string
	// CacheDir keeps the results of ADD, which libcni hands to DEL. It must outlive a reboot and
	// belong to this daemon alone: what [Network.GC] finds there and nobody claims, it detaches.
	CacheDir string
	// MaxNetworks is how many configurations of ConfDir a pod is attached to, the lexicographically
	// first ones. Default 1.
	MaxNetworks int
	// MaxParallel bounds how many pods are attached or detached at a time: each costs a process or
	// more per plug-in. Default [DefaultMaxParallel].
	MaxParallel int
	// Timeout bounds one verb on one network, over all plug-ins of its chain. Then the running
	// plug-in is killed, with its process group. Default [DefaultTimeout].
	Timeout time.Duration
	// StatusInterval is the age at which a cached answer to the STATUS verb is asked for again.
	// Default [DefaultStatusInterval].
	StatusInterval time.Duration
	// StatusGrace is for how long a network that was ready and fails now is still called ready. 0:
	// not at all.
	StatusGrace time.Duration
	// PollInterval is how often ConfDir is read even if no change was announced. Default
	// [DefaultPollInterval].
	PollInterval time.Duration
	// Bridge is the built-in network for a node whose ConfDir holds no file.
	Bridge Bridge
	// PodCIDRTemplate is a configuration as a text/template that [Network.UpdatePodCIDR] renders
	// into ConfDir. Empty: none.
	PodCIDRTemplate string
}

func (o Options) withDefaults() (Options, error) {
	for _, d := range []struct{ v, def *time.Duration }{
		{&o.Timeout, ptr(DefaultTimeout)},
		{&o.StatusInterval, ptr(DefaultStatusInterval)},
		{&o.PollInterval, ptr(DefaultPollInterval)},
	} {
		if *d.v == 0 {
			*d.v = *d.def
		}
	}
	if o.MaxParallel == 0 {
		o.MaxParallel = DefaultMaxParallel
	}
	if o.MaxNetworks == 0 {
		o.MaxNetworks = 1
	}
	switch {
	case o.ConfDir == "":
		return o, errors.New("no directory for network configurations")
	case len(o.BinDirs) == 0:
		return o, errors.New("no directory for plug-ins")
	case o.CacheDir == "":
		return o, errors.New("no directory for the result cache")
	case o.MaxParallel < 0 || o.MaxNetworks < 0 || o.Timeout < 0 || o.StatusInterval < 0 || o.PollInterval < 0 || o.StatusGrace < 0:
		return o, errors.New("a number is negative")
	}
	if o.Bridge.Enabled {
		if err := o.Bridge.validate(); err != nil {
			return o, fmt.Errorf("default network: %w", err)
		}
	}
	return o, nil
}

func ptr[T any](v T) *T { return &v }

// Network attaches pods to the node's networks. Its methods may be called at any time from any
// goroutine; calls about one [Attachment] are the caller's to serialise.
type Network struct {
	opts Options
	exec *pluginExec
	cni  *libcni.CNIConfig

	// conf is what ConfDir held when it was last read; replaced as a whole.
	conf atomic.Pointer[confSet]
	// slots has room for the chains that may run at a time.
	slots chan struct{}
	// recheck asks the status loop for a look before the next interval.
	recheck chan struct{}
	health  health
	podCIDR podCIDRs
	// filter is how the built-in network reaches netfilter, once that is found out.
	filter filterProbe
	// masquerade is the built-in network's way out of the node, with nftables.
	masquerade masquerade

	stop context.CancelFunc
	wg   sync.WaitGroup
}

// Open reads the configuration and starts to watch it and the plug-ins' health. A missing or broken
// configuration is no error: it shows in [Network.Status], and may be mended at any time. ctx
// carries the logger; it does not end the watch, Close does.
func Open(ctx context.Context, o Options) (*Network, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("open network: %w", err)
	}
	exec := &pluginExec{}
	n := &Network{
		opts:    o,
		exec:    exec,
		cni:     libcni.NewCNIConfigWithCacheDir(o.BinDirs, o.CacheDir, exec),
		slots:   make(chan struct{}, o.MaxParallel),
		recheck: make(chan struct{}, 1),
	}
	ctx, n.stop = context.WithCancel(context.WithoutCancel(ctx))
	ctx = klog.NewContext(ctx, klog.FromContext(ctx).WithName("network"))
	n.reload(ctx)
	n.wg.Go(func() { n.watch(ctx) })
	n.wg.Go(func() { n.watchHealth(ctx) })
	return n, nil
}

// Close stops watching and waits for it. Pods keep their network.
func (n *Network) Close() error {
	n.stop()
	n.wg.Wait()
	return nil
}

// acquire takes a slot for one chain of plug-ins, or gives up with ctx.
func (n *Network) acquire(ctx context.Context) error {
	select {
	case n.slots <- struct{}{}:
		return nil
	default:
		enter(ctx, "waiting for a plug-in slot")
	}
	select {
	case n.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for one of %d plug-in slots: %w", cap(n.slots), context.Cause(ctx))
	}
}

func (n *Network) release() { <-n.slots }
