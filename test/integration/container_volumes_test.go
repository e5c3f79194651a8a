// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// volumeFeatures: what comes of images beside the root file system.
var volumeFeatures = []feature{
	{"image volume", func(b *bed) {
		volume := func(path, sub string) *runtimeapi.Mount {
			return &runtimeapi.Mount{ContainerPath: path, Image: &runtimeapi.ImageSpec{Image: registry.Ref(b.t, "busybox:2")}, ImageSubPath: sub, Readonly: true}
		}
		b.cfg.Mounts = []*runtimeapi.Mount{volume("/all", ""), volume("/part", "etc")}
		b.cfg.Mounts[1].MountOptions = []string{"noexec"}
		id := b.says(`cat /all/etc/version /part/version; touch /all/x; touch /part/x; grep ' /part ' /proc/self/mountinfo | grep -c noexec`,
			"2", "2", "touch: /all/x: Read-only file system", "touch: /part/x: Read-only file system", "1")
		if m := b.Status(id).Mounts; len(m) != 2 || m[0].Image.GetImageRef() == "" {
			b.t.Errorf("status has mounts %v", m)
		}
		for _, sub := range []string{"../..", "none", "etc/version", "/etc", "etc\x00"} {
			b.cfg.Mounts = []*runtimeapi.Mount{volume("/x", sub)}
			b.refused(codes.InvalidArgument, "mounts[0].image_sub_path")
		}
		b.cfg.Mounts = []*runtimeapi.Mount{{ContainerPath: "/x", Image: &runtimeapi.ImageSpec{Image: "not.here/x:1"}, Readonly: true}}
		b.refused(codes.NotFound, "mounts[0].image")
	}},
	{"declared volume", func(b *bed) {
		// config:1 declares /data, in which it has a file. It is writable although the root is not, and the container's own.
		for range 2 {
			b.cfg = b.ContainerConfig(registry.Ref(b.t, "config:1"))
			b.sc().ReadonlyRootfs, b.sc().RunAsUser = true, &runtimeapi.Int64Value{}
			b.says(`cat /data/seed; touch /x; [ -e /data/y$$ ] || touch /data/y$$ && echo written; stat -c %a /data`,
				"seed", "touch: /x: Read-only file system", "written", "750")
		}
		b.cfg = b.ContainerConfig(registry.Ref(b.t, "config:1"))
		b.cfg.Mounts = []*runtimeapi.Mount{{ContainerPath: "/data", HostPath: b.mkdir("mine")}}
		b.says(`ls -A /data | wc -l`, "0")
	}},
}
