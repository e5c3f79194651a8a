// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

// GC frees what no pod of valid holds, once after recovery and before pods are attached: valid must
// be all attachments there are, those included whose Detach has yet to succeed.
//
// First, each cached ADD that nobody claims gets its DEL, with the configuration it was made with.
// Then the plug-ins of the present configuration get the GC verb (CNI 1.1), with valid as the
// attachments to keep. A network that is shared with another runtime has to say "disableGC" in its
// configuration, as CNI demands: plug-ins would free the other's.
func (n *Network) GC(ctx context.Context, valid []*Attachment) error {
	if err := n.acquire(ctx); err != nil {
		return fmt.Errorf("collect garbage: %w", err)
	}
	defer n.release()

	keep := map[string][]types.GCAttachment{} // by network
	known := map[[3]string]bool{}
	for _, a := range valid {
		for _, l := range a.Links {
			keep[l.Network] = append(keep[l.Network], types.GCAttachment{ContainerID: a.PodID, IfName: l.IfName})
			known[[3]string{l.Network, a.PodID, l.IfName}] = true
		}
	}
	var errs []error
	cached, err := n.cni.GetCachedAttachments("")
	if err != nil {
		errs = append(errs, fmt.Errorf("read cache: %w", err))
	}
	for _, c := range cached {
		if known[[3]string{c.Network, c.ContainerID, c.IfName}] {
			continue
		}
		caps, err := parseCapabilities(c.CapabilityArgs)
		if err != nil {
			errs = append(errs, fmt.Errorf("read cache of pod %s: %w", c.ContainerID, err))
		}
		a := &Attachment{
			PodID: c.ContainerID, NetNS: c.NetNS, Args: c.CniArgs, Capabilities: caps,
			Links: []Link{{Network: c.Network, IfName: c.IfName, Conf: c.Config}},
		}
		if err := n.delAll(ctx, a); err != nil {
			errs = append(errs, fmt.Errorf("detach stale pod %s: %w", c.ContainerID, err))
		}
	}
	for _, net := range n.conf.Load().networks {
		errs = append(errs, n.gcNetwork(ctx, net.list, keep[net.list.Name]))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("collect garbage: %w", err)
	}
	return nil
}

func (n *Network) gcNetwork(ctx context.Context, list *libcni.NetworkConfigList, keep []types.GCAttachment) error {
	ctx, cancel := n.limit(ctx)
	defer cancel()
	if keep == nil {
		keep = []types.GCAttachment{} // null would not say that there are none
	}
	if err := n.cni.GCNetworkList(ctx, list, &libcni.GCArgs{ValidAttachments: keep}); err != nil {
		return inNetwork(list.Name, err)
	}
	return nil
}
