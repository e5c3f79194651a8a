// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/template"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"k8s.io/klog/v2"

	"github.com/embedcri/embedcri/internal/atomicfile"
)

// renderedName is the file in ConfDir that UpdatePodCIDR writes.
const renderedName = "10-embedcri.conflist"

// podCIDRs are the node's ranges of pod addresses, as far as the kubelet has told.
type podCIDRs struct {
	mu    sync.Mutex
	cidrs []string
}

func (p *podCIDRs) set(cidrs []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cidrs = cidrs
}

// ranges is the ipRanges capability, one set of ranges per address family.
func (p *podCIDRs) ranges() [][]IPRange {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out [][]IPRange
	for _, c := range p.cidrs {
		out = append(out, []IPRange{{Subnet: c}})
	}
	return out
}

// templateData is what a template may use; the names are containerd's, so that its templates work.
type templateData struct {
	PodCIDR       string   // the first
	PodCIDRRanges []string // all
	Routes        []string // a default route per address family
}

// UpdatePodCIDR takes the node's pod CIDRs, comma-separated, as the kubelet gives them
// (UpdateRuntimeConfig). Plug-ins with the ipRanges capability get them from the next Plan on. If
// there is a template, it is rendered into ConfDir, unless somebody else has put a configuration
// there: that is the node's network then. An empty value is no news.
func (n *Network) UpdatePodCIDR(ctx context.Context, podCIDR string) error {
	data, err := parsePodCIDR(podCIDR)
	if err != nil {
		return fmt.Errorf("update pod CIDR: %w", err)
	}
	if data == nil {
		return nil
	}
	n.podCIDR.set(data.PodCIDRRanges)
	if n.opts.PodCIDRTemplate == "" {
		return nil
	}
	target := filepath.Join(n.opts.ConfDir, renderedName)
	for _, net := range loadConf(n.opts.ConfDir, n.opts.MaxNetworks).networks {
		if net.file != target {
			klog.FromContext(ctx).Info("Pod CIDR template not used: the node has a network", "network", net.list.Name, "file", net.file)
			return nil
		}
	}
	if err := render(n.opts.PodCIDRTemplate, target, data); err != nil {
		return fmt.Errorf("update pod CIDR: %w", err)
	}
	n.reload(ctx)
	return nil
}

func parsePodCIDR(s string) (*templateData, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	var d templateData
	for c := range strings.SplitSeq(s, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(c))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		d.PodCIDRRanges = append(d.PodCIDRRanges, p.Masked().String())
		route := "0.0.0.0/0"
		if p.Addr().Is6() {
			route = "::/0"
		}
		if !slices.Contains(d.Routes, route) {
			d.Routes = append(d.Routes, route)
		}
	}
	d.PodCIDR = d.PodCIDRRanges[0]
	return &d, nil
}

func render(file, target string, data *templateData) error {
	t, err := template.New(filepath.Base(file)).Option("missingkey=error").ParseFiles(file)
	if err != nil {
		return fmt.Errorf("read template: %w", err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, data); err != nil {
		return fmt.Errorf("render template: %w", err)
	}
	// Better the old configuration than a broken one.
	list, err := libcni.NetworkConfFromBytes(out.Bytes())
	if err == nil {
		err = validateList(list)
	}
	if err != nil {
		return fmt.Errorf("template %s does not make a configuration: %w", file, err)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(target, out.Bytes(), 0o644, atomicfile.Power)
}
