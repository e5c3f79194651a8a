// SPDX-License-Identifier: Apache-2.0

package network_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/embedcri/embedcri/internal/namespace"
	"github.com/embedcri/embedcri/pkg/network"
)

// BenchmarkAttachDetach compares the package with its plug-ins alone, run by libcni's own executor:
// the difference is what embedcri adds.
func BenchmarkAttachDetach(b *testing.B) {
	h := newHost(b)
	o := bridged(b, options(b), "10.96.0.0/16")
	n := open(b, o)
	plan := func(i int) *network.Attachment {
		name := fmt.Sprint("pod", i)
		p, err := namespace.Create(filepath.Join(h.dir, name), namespace.Spec{Net: true})
		if err != nil {
			b.Fatal(err)
		}
		a, err := n.Plan(network.Pod{ID: podID(name), Name: name, Namespace: "d", UID: "u", NetNS: p.Net})
		if err != nil {
			b.Fatal(err)
		}
		return a
	}
	done := func(a *network.Attachment) {
		if err := namespace.Delete(filepath.Dir(a.NetNS)); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("plugins alone", func(b *testing.B) {
		cni := libcni.NewCNIConfigWithCacheDir(o.BinDirs, o.CacheDir, nil)
		for i := range b.N {
			b.StopTimer()
			a := plan(i)
			list, err := libcni.NetworkConfFromBytes(a.Links[0].Conf)
			if err != nil {
				b.Fatal(err)
			}
			rt := &libcni.RuntimeConf{ContainerID: a.PodID, NetNS: a.NetNS, IfName: "eth0", Args: a.Args}
			b.StartTimer()
			err = in(b, h.netns, func() error {
				if _, err := cni.AddNetworkList(b.Context(), list, rt); err != nil {
					return err
				}
				return cni.DelNetworkList(b.Context(), list, rt)
			})
			b.StopTimer()
			if err != nil {
				b.Fatal(err)
			}
			done(a)
			b.StartTimer()
		}
	})
	b.Run("embedcri", func(b *testing.B) {
		for i := range b.N {
			b.StopTimer()
			a := plan(i)
			b.StartTimer()
			err := in(b, h.netns, func() error {
				if err := n.Attach(b.Context(), a); err != nil {
					return err
				}
				return n.Detach(b.Context(), a)
			})
			b.StopTimer()
			if err != nil {
				b.Fatal(err)
			}
			done(a)
			b.StartTimer()
		}
	})
}
