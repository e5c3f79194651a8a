// SPDX-License-Identifier: Apache-2.0

package network

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Pod is what the network has to know of a pod.
type Pod struct {
	ID, Name, Namespace, UID string
	// NetNS is the path of the pod's network namespace.
	NetNS        string
	PortMappings []PortMapping
	// Annotations are the pod's; kubernetes.io/{ingress,egress}-bandwidth are understood.
	Annotations  map[string]string
	CgroupParent string
	DNS          DNS
}

// PortMapping makes a port of the pod reachable on the node. The JSON is that of CNI's portMappings
// capability, and so is that of the types below (https://www.cni.dev/docs/conventions/).
type PortMapping struct {
	HostPort      int32  `json:"hostPort"` // 0: not mapped
	ContainerPort int32  `json:"containerPort"`
	Protocol      string `json:"protocol"`         // tcp, udp or sctp
	HostIP        string `json:"hostIP,omitempty"` // empty: all of the node's addresses
}

// DNS is the pod's resolver configuration, for plug-ins that care.
type DNS struct {
	Servers  []string `json:"servers,omitempty"`
	Searches []string `json:"searches,omitempty"`
	Options  []string `json:"options,omitempty"`
}

// Bandwidth limits a pod's traffic: rates in bits per second, bursts in bits. 0 is no limit.
type Bandwidth struct {
	IngressRate  uint64 `json:"ingressRate,omitempty"`
	IngressBurst uint64 `json:"ingressBurst,omitempty"`
	EgressRate   uint64 `json:"egressRate,omitempty"`
	EgressBurst  uint64 `json:"egressBurst,omitempty"`
}

// Attachment is the complete account of how a pod is attached: all that ADD is told, so that a DEL
// years and configurations later undoes exactly that, and what ADD answered. The caller keeps it,
// as JSON: before Attach and again after it.
type Attachment struct {
	PodID string `json:"podID"`
	NetNS string `json:"netns"`
	// Args is CNI_ARGS, in order.
	Args         [][2]string  `json:"args"`
	Capabilities Capabilities `json:"capabilities"`
	// Links are the networks, in the order of ADD; the first is the pod's default network.
	Links []Link `json:"links"`
	// IPs are the pod's addresses on the default network, the primary one first. Set by Attach.
	IPs []string `json:"ips,omitempty"`
}

// Link is a pod's place in one network.
type Link struct {
	Network string `json:"network"`
	IfName  string `json:"ifName"`
	// Masquerade tells that the built-in network's own table has to let the pod out of the node.
	Masquerade bool `json:"masquerade,omitempty"`
	// Conf is the network's configuration list, with all its plug-ins inside.
	Conf json.RawMessage `json:"conf"`
	// Result is what ADD returned, in CNI's current format; nil before.
	Result json.RawMessage `json:"result,omitempty"`
	IPs    []string        `json:"ips,omitempty"`
}

// Capabilities are the arguments of CNI's capability conventions; the JSON names are those of the
// capabilities. libcni passes to a plug-in those which its configuration declares.
type Capabilities struct {
	PortMappings []PortMapping `json:"portMappings,omitempty"`
	Bandwidth    *Bandwidth    `json:"bandwidth,omitempty"`
	DNS          *DNS          `json:"dns,omitempty"`
	CgroupPath   string        `json:"cgroupPath,omitempty"`
	IPRanges     [][]IPRange   `json:"ipRanges,omitempty"`
	// Annotations are not in CNI's list; the name is containerd's, which plug-ins have come to
	// read.
	Annotations map[string]string `json:"io.kubernetes.cri.pod-annotations,omitempty"`
}

// IPRange is a range to allocate from.
type IPRange struct {
	Subnet string `json:"subnet"`
}

// args is c as libcni wants it. What is not asked for is left out: a plug-in that gets an empty
// value takes it for a wish.
func (c Capabilities) args() (map[string]any, error) {
	raw, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	out := make(map[string]any, len(fields))
	for name, value := range fields {
		out[name] = value
	}
	return out, nil
}

// parseCapabilities is the way back, from libcni's cache.
func parseCapabilities(args map[string]any) (c Capabilities, err error) {
	raw, err := json.Marshal(args)
	if err != nil {
		return c, err
	}
	err = json.Unmarshal(raw, &c)
	return c, err
}

// Plan says how a pod would be attached now. It changes nothing: the caller records the result and
// then calls [Network.Attach]. Errors are ErrInvalidArgument for the pod's part, ErrUnavailable
// while the node has no network configuration, and ErrFailedPrecondition if a plug-in is not
// installed: an ADD that comes to nothing for that could not be undone either.
func (n *Network) Plan(p Pod) (*Attachment, error) {
	caps, err := p.capabilities()
	if err != nil {
		return nil, fmt.Errorf("plan network: %w", err)
	}
	caps.IPRanges = n.podCIDR.ranges()

	conf := n.conf.Load()
	if err := conf.err(); err != nil {
		return nil, fmt.Errorf("plan network: %w", err)
	}
	if len(caps.PortMappings) > 0 && conf.networks[0].cannotMapPorts() {
		return nil, fmt.Errorf("plan network: the built-in network cannot map host ports, since neither nft nor iptables works here: %w", errdefs.ErrFailedPrecondition)
	}
	a := &Attachment{
		PodID:        p.ID,
		NetNS:        p.NetNS,
		Capabilities: caps,
		// https://www.cni.dev/docs/conventions/: plug-ins parse these into structs and fail on
		// names they lack, unless IgnoreUnknown is set.
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", p.Namespace},
			{"K8S_POD_NAME", p.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", p.ID},
			{"K8S_POD_UID", p.UID},
		},
	}
	for i, net := range conf.networks {
		if err := n.exec.findAll(net.list, n.opts.BinDirs); err != nil {
			return nil, fmt.Errorf("plan network: %w", inNetwork(net.list.Name, err))
		}
		a.Links = append(a.Links, Link{
			Network:    net.list.Name,
			IfName:     fmt.Sprintf("eth%d", i),
			Masquerade: net.masquerade,
			Conf:       json.RawMessage(net.list.Bytes),
		})
	}
	return a, nil
}

// capabilities checks and translates the pod's wishes.
func (p Pod) capabilities() (Capabilities, error) {
	c := Capabilities{CgroupPath: p.CgroupParent, Annotations: p.Annotations}
	for i, m := range p.PortMappings {
		if m.HostPort == 0 {
			continue // the CRI: a container port that is merely declared
		}
		if err := m.validate(); err != nil {
			return Capabilities{}, fmt.Errorf("port mapping %d: %w", i, err)
		}
		c.PortMappings = append(c.PortMappings, m)
	}
	if len(p.DNS.Servers)+len(p.DNS.Searches)+len(p.DNS.Options) > 0 {
		c.DNS = &p.DNS
	}
	var b Bandwidth
	for _, d := range []struct {
		annotation  string
		rate, burst *uint64
	}{
		{"kubernetes.io/ingress-bandwidth", &b.IngressRate, &b.IngressBurst},
		{"kubernetes.io/egress-bandwidth", &b.EgressRate, &b.EgressBurst},
	} {
		text, ok := p.Annotations[d.annotation]
		if !ok {
			continue
		}
		rate, err := parseRate(text)
		if err != nil {
			return Capabilities{}, fmt.Errorf("annotation %s: %w", d.annotation, err)
		}
		// The annotations have no word for bursts; both peers allow the most that the plug-in's 32
		// bits hold.
		*d.rate, *d.burst = rate, math.MaxUint32
		c.Bandwidth = &b
	}
	return c, nil
}

// parseRate reads a rate in bits per second, "10M". The bounds are Kubernetes's
// (pkg/util/bandwidth): outside of 1k to 1P it is a slip.
func parseRate(text string) (uint64, error) {
	// A quantity may have any exponent, and 1e999999999 is computed digit by digit: minutes, and hundreds of MiB.
	_, exponent, _ := strings.Cut(strings.ToLower(text), "e")
	if len(text) > 32 || len(strings.TrimLeft(exponent, "+-0")) > 2 {
		return 0, fmt.Errorf("%.40q is no rate: %w", text, errdefs.ErrInvalidArgument)
	}
	q, err := resource.ParseQuantity(text)
	if err != nil {
		return 0, fmt.Errorf("%q is no rate: %w", text, errdefs.ErrInvalidArgument)
	}
	if v := q.Value(); v < 1e3 || v > 1e15 {
		return 0, fmt.Errorf("%q is not between 1k and 1P bits per second: %w", text, errdefs.ErrInvalidArgument)
	}
	return uint64(q.Value()), nil
}

func (m PortMapping) validate() error {
	for _, p := range []struct {
		name string
		port int32
	}{{"host port", m.HostPort}, {"container port", m.ContainerPort}} {
		if p.port < 1 || p.port > 65535 {
			return fmt.Errorf("%s %d is not in 1-65535: %w", p.name, p.port, errdefs.ErrInvalidArgument)
		}
	}
	switch m.Protocol {
	case "tcp", "udp", "sctp":
	default:
		return fmt.Errorf("protocol %q is none of tcp, udp, sctp: %w", m.Protocol, errdefs.ErrInvalidArgument)
	}
	if m.HostIP != "" {
		if a, err := netip.ParseAddr(m.HostIP); err != nil || a.Zone() != "" {
			return fmt.Errorf("host IP %q is no address: %w", m.HostIP, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}
