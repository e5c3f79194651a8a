// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/cgroup"
)

// tmpfs mounts one at the directory name of the bed, with a propagation (unix.MS_SHARED, …), until the test ends.
func (b *bed) tmpfs(name string, propagation uintptr) string {
	b.t.Helper()
	p := b.mkdir(name)
	if err := unix.Mount("tmpfs", p, "tmpfs", 0, "size=1m"); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			b.t.Error(err)
		}
	})
	if err := unix.Mount("", p, "", propagation, ""); err != nil {
		b.t.Fatal(err)
	}
	return p
}

// handlerHas tells whether the handler announces recursive read-only mounts or user namespaces. What it announces must work, and
// what it does not must be refused.
func (b *bed) handlerHas() (rro, userns bool) {
	b.t.Helper()
	s, err := b.Runtime.Status(b.Ctx(), false)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, h := range s.RuntimeHandlers {
		if h.Name == b.handler {
			return h.Features.GetRecursiveReadOnlyMounts(), h.Features.GetUserNamespaces()
		}
	}
	b.t.Fatalf("handler %s is not in Status", b.handler)
	return false, false
}

// mountFeatures: what of the host is in the container, and how.
var mountFeatures = []feature{
	{"mounts", func(b *bed) {
		b.mkdir("rw")
		b.write("one", "a file", 0o644)
		b.mkdir("target")
		b.write("target/f", "found", 0o644)
		if err := os.Symlink("target", filepath.Join(b.dir, "link")); err != nil {
			b.t.Fatal(err)
		}
		at := func(p string) string { return filepath.Join(b.dir, p) }
		b.cfg.Mounts = []*runtimeapi.Mount{
			{ContainerPath: "/srv/rw", HostPath: at("rw")},
			{ContainerPath: "/srv/ro", HostPath: at("rw"), Readonly: true},
			{ContainerPath: "/srv/one", HostPath: at("one"), Readonly: true},
			{ContainerPath: "/srv/link", HostPath: at("link")},
			{ContainerPath: "/srv/made", HostPath: at("made/here")},
			{ContainerPath: "/srv/made/deep", HostPath: at("target")},
		}
		id := b.says(`touch /srv/rw/x && echo written; touch /srv/ro/x; cat /srv/one; echo; cat /srv/link/f; echo; touch /srv/made/x && echo made; cat /srv/made/deep/f; echo`,
			"written", "touch: /srv/ro/x: Read-only file system", "a file", "found", "made", "found")
		if _, err := os.Stat(at("made/here/x")); err != nil {
			b.t.Error(err)
		}
		if got := b.Status(id).Mounts; len(got) != 6 || got[0].HostPath != at("rw") {
			b.t.Errorf("status has mounts %v", got)
		}
		b.cfg.Mounts = []*runtimeapi.Mount{{ContainerPath: "/x", HostPath: at("one/below-a-file")}}
		b.refused(codes.InvalidArgument, "mounts[0].host_path")
		b.cfg.Mounts = []*runtimeapi.Mount{{ContainerPath: "/", HostPath: at("rw")}}
		b.refused(codes.InvalidArgument, "mounts[0].container_path")
	}},
	{"mount options", func(b *bed) {
		b.mkdir("v")
		b.write("v/prog", "#!/bin/sh\nid -u\n", 0o755)
		if err := unix.Mknod(filepath.Join(b.dir, "v/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
			b.t.Fatal(err)
		}
		for _, o := range []string{"noexec", "nodev", "nosuid"} {
			b.cfg.Mounts = append(b.cfg.Mounts, &runtimeapi.Mount{ContainerPath: "/" + o, HostPath: filepath.Join(b.dir, "v"), MountOptions: []string{o}})
		}
		b.says(`/noexec/prog; /nodev/prog; (: > /nodev/null); (: > /noexec/null) && echo device
			for o in noexec nodev nosuid; do grep " /$o " /proc/self/mountinfo | cut -d' ' -f6 | grep -c "\<$o\>"; done`,
			"sh: /noexec/prog: Permission denied", "0", "sh: can't create /nodev/null: Permission denied", "device", "1", "1", "1")
		b.cfg.Mounts = []*runtimeapi.Mount{{ContainerPath: "/x", HostPath: b.dir, MountOptions: []string{"nodev", "remount"}}}
		b.refused(codes.InvalidArgument, "mounts[0].mount_options[1]")
	}},
	{"recursive read-only", func(b *bed) {
		b.mkdir("src")
		b.tmpfs("src/sub", unix.MS_PRIVATE)
		rro, _ := b.handlerHas()
		b.cfg.Mounts = []*runtimeapi.Mount{
			{ContainerPath: "/ro", HostPath: filepath.Join(b.dir, "src"), Readonly: true},
			{ContainerPath: "/rro", HostPath: filepath.Join(b.dir, "src"), Readonly: true, RecursiveReadOnly: rro},
		}
		if !rro {
			b.says("touch /ro/sub/x && echo written", "written")
			b.cfg.Mounts = []*runtimeapi.Mount{{ContainerPath: "/rro", HostPath: b.dir, Readonly: true, RecursiveReadOnly: true}}
			b.refused(codes.FailedPrecondition, "mounts[0].recursive_read_only")
			return
		}
		b.says(`touch /ro/sub/x && echo written; touch /rro/sub/x`, "written", "touch: /rro/sub/x: Read-only file system")
	}},
	{"propagation", func(b *bed) {
		shared := b.tmpfs("shared", unix.MS_SHARED)
		for _, d := range []string{"from-host", "from-slave", "from-shared"} {
			b.mkdir("shared/" + d)
		}
		b.pc.Linux.SecurityContext.Privileged = true
		start := func(p runtimeapi.MountPropagation) string {
			b.sc().Privileged = true
			b.cfg.Mounts = []*runtimeapi.Mount{{ContainerPath: "/v", HostPath: shared, Propagation: p}}
			b.cfg.Command = []string{"sleep", "1000"}
			return b.start()
		}
		private := start(runtimeapi.MountPropagation_PROPAGATION_PRIVATE)
		slave := start(runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER)
		both := start(runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL)

		b.tmpfs("shared/from-host", unix.MS_SHARED) // after they have started
		b.exec(slave, "mount -t tmpfs tmpfs /v/from-slave")
		b.exec(both, "mount -t tmpfs tmpfs /v/from-shared")
		const script = `for m in host slave shared; do grep -q " /v/from-$m " /proc/self/mountinfo && echo $m; done`
		b.equal("private", b.exec(private, script), []string{""})
		b.equal("slave", b.exec(slave, script), []string{"host", "slave", "shared"})
		b.equal("shared", b.exec(both, script), []string{"host", "shared"})
		for name, want := range map[string]bool{"from-slave": false, "from-shared": true} {
			var up, down unix.Stat_t
			if err := unix.Stat(shared, &up); err != nil {
				b.t.Fatal(err)
			}
			if err := unix.Stat(filepath.Join(shared, name), &down); err != nil || (up.Dev != down.Dev) != want {
				b.t.Errorf("host sees a mount at %s: %v, %v; want %v", name, up.Dev != down.Dev, err, want)
			}
		}
		b.exec(both, "umount /v/from-shared")
	}},
	{"propagation that the host does not have", func(b *bed) {
		private, slave := b.tmpfs("private", unix.MS_PRIVATE), b.tmpfs("slave", unix.MS_SHARED)
		if err := unix.Mount("", slave, "", unix.MS_SLAVE, ""); err != nil { // of nobody: it becomes private
			b.t.Fatal(err)
		}
		for _, source := range []string{private, slave} {
			for _, p := range []runtimeapi.MountPropagation{runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER, runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL} {
				b.cfg.Mounts = []*runtimeapi.Mount{{ContainerPath: "/v", HostPath: source, Propagation: p}}
				b.refused(codes.FailedPrecondition, "mounts[0].propagation")
			}
		}
	}},
	{"cgroup mount", func(b *bed) {
		b.cfg.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}
		file := "/sys/fs/cgroup/memory/memory.limit_in_bytes"
		if cgroup.Unified() {
			file = "/sys/fs/cgroup/memory.max"
		}
		b.says("cat "+file+"; (echo 1 > "+file+") 2>/dev/null || echo read-only", "67108864", "read-only")
	}},
	{"user namespace", func(b *bed) {
		_, userns := b.handlerHas()
		ids := []*runtimeapi.IDMapping{{HostId: 1_000_000, Length: 65536}}
		o := &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: ids, Gids: ids}
		b.pc.Linux.SecurityContext.NamespaceOptions.UsernsOptions = o
		if !userns {
			_, err := b.Runtime.RunPodSandbox(b.Ctx(), b.pc, b.handler)
			want(b.t, err, codes.FailedPrecondition, "userns_options")
			return
		}
		b.mkdir("v")
		theirs := b.write("v/theirs", "x", 0o600)
		if err := os.Chown(theirs, 1000, 1000); err != nil {
			b.t.Fatal(err)
		}
		b.sc().NamespaceOptions.UsernsOptions = o
		b.cfg.Mounts = []*runtimeapi.Mount{
			{ContainerPath: "/mapped", HostPath: filepath.Join(b.dir, "v"), UidMappings: ids, GidMappings: ids},
			{ContainerPath: "/plain", HostPath: filepath.Join(b.dir, "v")},
			{ContainerPath: "/image1", Image: &runtimeapi.ImageSpec{Image: registry.Ref(b.t, "busybox:1")}, Readonly: true, UidMappings: ids, GidMappings: ids},
			{ContainerPath: "/image2", Image: &runtimeapi.ImageSpec{Image: registry.Ref(b.t, "busybox:2")}, ImageSubPath: "etc", Readonly: true},
		}
		b.says(`tr -s ' ' < /proc/self/uid_map; stat -c %u:%g /mapped/theirs /plain/theirs /etc/passwd /etc/hosts /image1/etc/passwd /image2/passwd`,
			" 0 1000000 65536", "1000:1000", "65534:65534", "0:0", "0:0", "0:0", "0:0")
	}},
}
