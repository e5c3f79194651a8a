// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/embedcri/embedcri/internal/namespace"
)

// Attach runs ADD on each network of a, in order, and fills in the results and IPs. If one fails,
// or ctx ends, what was done is undone by DEL before Attach returns; should that fail too, its
// error is joined and the caller's next [Network.Detach] goes on. ADD is not idempotent: an Attach
// that was cut short by the daemon's death must be detached before another.
func (n *Network) Attach(ctx context.Context, a *Attachment) error {
	if err := n.acquire(ctx); err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	defer n.release()

	err := n.addAll(ctx, a)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("attach: %w", err)
	if undo := n.delAll(ctx, a); undo != nil {
		err = errors.Join(err, fmt.Errorf("undo attach: %w", undo))
	}
	return err
}

func (n *Network) addAll(ctx context.Context, a *Attachment) error {
	if len(a.Links) == 0 {
		return errors.New("there is no network to attach to")
	}
	for i := range a.Links {
		if err := n.add(ctx, a, &a.Links[i]); err != nil {
			return err
		}
	}
	a.IPs = a.Links[0].IPs
	if len(a.IPs) == 0 {
		// A pod without an address is of no use to Kubernetes; it would wait for one for ever.
		return fmt.Errorf("network %q: its plug-ins returned no IP address", a.Links[0].Network)
	}
	return nil
}

func (n *Network) add(ctx context.Context, a *Attachment, l *Link) error {
	list, conf, err := a.call(l, a.NetNS)
	if err != nil {
		return fmt.Errorf("network %q: %w", l.Network, err)
	}
	ctx, cancel := n.limit(ctx)
	defer cancel()
	if l.Masquerade {
		if err := n.masquerade.ensure(ctx, n.opts.Bridge); err != nil {
			return fmt.Errorf("network %q: %w", l.Network, err)
		}
	}
	res, err := n.cni.AddNetworkList(ctx, list, conf)
	if err != nil {
		return inNetwork(l.Network, err)
	}
	// All versions of a result can be converted to the current one.
	result, err := types100.NewResultFromResult(res)
	if err != nil {
		return fmt.Errorf("network %q: read result: %w", l.Network, err)
	}
	if l.Result, err = json.Marshal(result); err != nil {
		return fmt.Errorf("network %q: keep result: %w", l.Network, err)
	}
	l.IPs = podIPs(result, l.IfName)
	return nil
}

// podIPs picks the addresses on the pod's interface, in the order of the result. An address without
// an interface is the pod's (plug-ins older than CNI 0.3 name none); one of an interface outside of
// the pod is the gateway's or the like.
func podIPs(r *types100.Result, ifName string) []string {
	var ips []string
	for _, ip := range r.IPs {
		if ip.Interface != nil && *ip.Interface >= 0 && *ip.Interface < len(r.Interfaces) {
			if i := r.Interfaces[*ip.Interface]; i.Sandbox == "" || i.Name != ifName {
				continue
			}
		}
		ips = append(ips, ip.Address.IP.String())
	}
	return ips
}

// Detach runs DEL on the networks of a, last to first, with what was recorded for ADD. All are
// tried; the error joins those that failed, and the caller repeats until there is none. Idempotent,
// and fine without a namespace (after a reboot). ctx ends only the wait for a slot: a DEL that runs
// goes on to its end or the time-out.
func (n *Network) Detach(ctx context.Context, a *Attachment) error {
	if err := n.acquire(ctx); err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	defer n.release()
	if err := n.delAll(ctx, a); err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	return nil
}

func (n *Network) delAll(ctx context.Context, a *Attachment) error {
	ctx = context.WithoutCancel(ctx)
	if namespace.Pinned(a.NetNS) {
		return n.delLinks(ctx, a, a.NetNS)
	}
	// The namespace is gone. CNI would have us pass no CNI_NETNS at all, but plug-ins then skip
	// what they keep outside of it: bridge 1.9.1 leaves its masquerading rules behind (main/bridge:
	// cmdDel). In an empty namespace they find no interface, which is the case of a second DEL, and
	// do everything else.
	return namespace.WithEmptyNet(func(path string) error { return n.delLinks(ctx, a, path) })
}

func (n *Network) delLinks(ctx context.Context, a *Attachment, netns string) error {
	var errs []error
	for i := len(a.Links) - 1; i >= 0; i-- {
		errs = append(errs, n.del(ctx, a, &a.Links[i], netns))
	}
	return errors.Join(errs...)
}

func (n *Network) del(ctx context.Context, a *Attachment, l *Link, netns string) error {
	list, conf, err := a.call(l, netns)
	if err != nil {
		return fmt.Errorf("network %q: %w", l.Network, err)
	}
	ctx, cancel := n.limit(ctx)
	defer cancel()
	if err := n.cni.DelNetworkList(ctx, list, conf); err != nil {
		return inNetwork(l.Network, err)
	}
	return nil
}

// limit gives a verb its time.
func (n *Network) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, n.opts.Timeout, timeoutError(n.opts.Timeout))
}

// call is what libcni gets to know for a verb on l.
func (a *Attachment) call(l *Link, netns string) (*libcni.NetworkConfigList, *libcni.RuntimeConf, error) {
	list, err := libcni.NetworkConfFromBytes(l.Conf)
	if err != nil {
		return nil, nil, err
	}
	caps, err := a.Capabilities.args()
	if err != nil {
		return nil, nil, err
	}
	return list, &libcni.RuntimeConf{
		ContainerID:    a.PodID,
		NetNS:          netns,
		IfName:         l.IfName,
		Args:           a.Args,
		CapabilityArgs: caps,
	}, nil
}
