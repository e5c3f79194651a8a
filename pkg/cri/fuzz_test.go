// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// FuzzValidConfigs feeds the validators what can come over the wire.
func FuzzValidConfigs(f *testing.F) {
	for _, m := range []proto.Message{
		&runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: "i"}, LogPath: "../x",
			Mounts: []*runtimeapi.Mount{nil, {ContainerPath: "/x", HostPath: "/y", Propagation: 9}}, Envs: []*runtimeapi.KeyValue{nil, {Key: "a"}}},
		&runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "p", Uid: "u", Namespace: "n"}, LogDirectory: "/x",
			PortMappings: []*runtimeapi.PortMapping{{HostPort: -1}}, DnsConfig: &runtimeapi.DNSConfig{Servers: []string{"1.2.3.4\nnameserver 6.6.6.6"}}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var c runtimeapi.ContainerConfig
		if proto.Unmarshal(b, &c) == nil {
			if err := validContainerConfig(&c); err != nil && !errdefs.IsInvalidArgument(err) {
				t.Errorf("container: %v", err)
			}
		}
		var p runtimeapi.PodSandboxConfig
		if proto.Unmarshal(b, &p) == nil {
			if err := validPodConfig(&p); err != nil && !errdefs.IsInvalidArgument(err) {
				t.Errorf("pod: %v", err)
			}
		}
	})
}

// FuzzValidID: an id is never a path, and can go into a log line as it is.
func FuzzValidID(f *testing.F) {
	for _, s := range []string{"", "abc", "..", "a/b", "a\nb", "ä", "A-_9"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, id string) {
		if validID("id", id) != nil {
			return
		}
		for _, r := range id {
			if r <= ' ' || r > '~' || r == '/' || r == '.' {
				t.Errorf("%q is an id", id)
			}
		}
	})
}
