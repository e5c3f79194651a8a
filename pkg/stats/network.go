// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"fmt"
	"net"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/namespace"
)

// linkTimeout bounds a look at a namespace's interfaces. Another process that configures them holds rtnl meanwhile.
const linkTimeout = 2 * time.Second

// links is a netlink socket inside a network namespace. A socket stays in the namespace it was made in, so only making it needs a
// thread there.
type links struct{ h *netlink.Handle }

func openLinks(netns string) (*links, error) {
	var h *netlink.Handle
	err := namespace.Do(netns, func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	if err := h.SetSocketTimeout(linkTimeout); err != nil {
		h.Close()
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	return &links{h}, nil
}

// read returns the counters of all interfaces but the loopback (IFLA_STATS64), in the kernel's order.
func (l *links) read() ([]Interface, error) {
	all, err := l.h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	out := make([]Interface, 0, len(all))
	for _, link := range all {
		a := link.Attrs()
		s := a.Statistics
		if a.Flags&net.FlagLoopback != 0 || s == nil {
			continue
		}
		out = append(out, Interface{
			Name:    a.Name,
			RxBytes: s.RxBytes, RxPackets: s.RxPackets, RxErrors: s.RxErrors, RxDropped: s.RxDropped,
			TxBytes: s.TxBytes, TxPackets: s.TxPackets, TxErrors: s.TxErrors, TxDropped: s.TxDropped,
		})
	}
	return out, nil
}

func (l *links) close() { l.h.Close() }
