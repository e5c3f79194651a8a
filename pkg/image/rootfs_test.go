// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/testregistry"
)

func TestRootfsIdempotent(t *testing.T) {
	reg := testregistry.Start(t, testregistry.Options{})
	s := open(t, Options{})
	img := pull(t, s, reg.Ref(t, "busybox:1"))
	req := RootfsRequest{ContainerID: "c1", ImageID: img.ID, Target: filepath.Join(t.TempDir(), "rootfs")}
	for range 3 {
		if err := s.CreateRootfs(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	if n := mountsAt(t, req.Target); n != 1 {
		t.Errorf("mounted %d times", n)
	}
	// Somebody mounts something else on top, and holds it.
	if err := unix.Mount("tmpfs", req.Target, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	held, err := os.Open(req.Target)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := s.RemoveRootfs(t.Context(), "c1", req.Target); err != nil {
		t.Fatal(err)
	}
	if n := mountsAt(t, req.Target); n != 0 {
		t.Errorf("still mounted %d times", n)
	}
	if _, err := os.Stat(req.Target); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("target: %v", err)
	}
	if ids, err := s.Rootfses(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("root file systems left: %v, %v", ids, err)
	}
	if _, err := s.RootfsUsage(t.Context(), "c1"); !errdefs.IsNotFound(err) {
		t.Errorf("usage of what is gone: %v", err)
	}
	if err := s.MountRootfs(t.Context(), "c1", req.Target); !errdefs.IsNotFound(err) {
		t.Errorf("mount of what is gone: %v", err)
	}
}

func TestRootfsRefuses(t *testing.T) {
	reg := testregistry.Start(t, testregistry.Options{})
	s := open(t, Options{})
	img := pull(t, s, reg.Ref(t, "scratch:1"))
	one := []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
	for name, tc := range map[string]struct {
		req   RootfsRequest
		class error
	}{
		"no image":        {RootfsRequest{ContainerID: "c", ImageID: "nothing:1", Target: "/x"}, errdefs.ErrNotFound},
		"relative target": {RootfsRequest{ContainerID: "c", ImageID: img.ID, Target: "x"}, errdefs.ErrInvalidArgument},
		"half a mapping":  {RootfsRequest{ContainerID: "c2", ImageID: img.ID, Target: "/x", UIDMap: one}, errdefs.ErrInvalidArgument},
		"two ranges":      {RootfsRequest{ContainerID: "c2", ImageID: img.ID, Target: "/x", UIDMap: append(one, one...), GIDMap: one}, errdefs.ErrInvalidArgument},
	} {
		if err := s.CreateRootfs(t.Context(), tc.req); !errors.Is(err, tc.class) {
			t.Errorf("%s: %v, want %v", name, err, tc.class)
		}
	}
	if ids, err := s.Rootfses(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("what failed left %v, %v", ids, err)
	}
}

func TestRootfsVolatile(t *testing.T) {
	reg := testregistry.Start(t, testregistry.Options{})
	s := open(t, Options{Volatile: true})
	img := pull(t, s, reg.Ref(t, "busybox:1"))
	dir := rootfs(t, s, "c1", img.ID)
	infos, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
	if err != nil || len(infos) != 1 || !strings.Contains(infos[0].VFSOptions, "volatile") && !strings.Contains(infos[0].VFSOptions, "fsync=volatile") {
		t.Fatalf("mount options %+v, %v", infos, err)
	}
	// As after a crash: the mark is on the work directory while the mount is gone. An unmount of another
	// mount namespace's copy does the same.
	work := workDir(t, infos[0].VFSOptions)
	if err := unmount(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(work, "work/incompat/volatile"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.MountRootfs(t.Context(), "c1", dir); err != nil {
		t.Error(err)
	}
}

func workDir(t *testing.T, options string) string {
	t.Helper()
	for o := range strings.SplitSeq(options, ",") {
		if dir, ok := strings.CutPrefix(o, "workdir="); ok {
			return dir
		}
	}
	t.Fatalf("no workdir in %s", options)
	return ""
}

func TestRootfsIDMapped(t *testing.T) {
	reg := testregistry.Start(t, testregistry.Options{})
	s := open(t, Options{})
	if ok, err := overlayutils.SupportsIDMappedMounts(); err != nil || !ok {
		t.Skipf("the kernel does not idmap the layers of overlayfs: %v", err)
	}
	for _, name := range []string{"config:1", "scratch:1"} {
		img := pull(t, s, reg.Ref(t, name))
		dir := filepath.Join(t.TempDir(), "rootfs")
		ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 65536}}
		id := "c-" + img.ID[7:15]
		if err := s.CreateRootfs(t.Context(), RootfsRequest{ContainerID: id, ImageID: img.ID, Target: dir, UIDMap: ids, GIDMap: ids}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unmount(dir); err != nil {
				t.Error(err)
			}
		})
		var st syscall.Stat_t
		if err := syscall.Stat(dir, &st); err != nil || st.Uid != 200000 || st.Gid != 200000 {
			t.Errorf("%s: root belongs to %d:%d, %v", name, st.Uid, st.Gid, err)
		}
		if name == "config:1" {
			if err := syscall.Stat(filepath.Join(dir, "bin/busybox"), &st); err != nil || st.Uid != 200000 {
				t.Errorf("%s: busybox belongs to %d, %v", name, st.Uid, err)
			}
		}
	}
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(os.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range infos {
		if strings.Contains(i.Mountpoint, "ovl-idmapped") {
			t.Errorf("helper mount %s was left", i.Mountpoint)
		}
	}
}

func TestRootfsNative(t *testing.T) {
	reg := testregistry.Start(t, testregistry.Options{})
	s := open(t, Options{Snapshotter: Native})
	dir := rootfs(t, s, "c1", pull(t, s, reg.Ref(t, "config:1")).ID)
	if _, err := os.Stat(filepath.Join(dir, "removed")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("whiteout: %v", err)
	}
	if err := s.RemoveRootfs(t.Context(), "c1", dir); err != nil {
		t.Error(err)
	}
	closeStore(t, s)
	o := s.options
	o.Snapshotter = "" // and finds what the store was made with
	if again := open(t, o); again.snapshotter != Native || len(again.Images()) != 1 {
		t.Errorf("reopened with %s, %d images", again.snapshotter, len(again.Images()))
	}
}

func TestMountImage(t *testing.T) {
	reg := testregistry.Start(t, testregistry.Options{})
	s := open(t, Options{})
	for _, name := range []string{"scratch:1", "busybox:1", "config:1"} { // none, one and more layers
		img := pull(t, s, reg.Ref(t, name))
		target := filepath.Join(t.TempDir(), "volume")
		for range 2 {
			if err := s.MountImage(t.Context(), VolumeRequest{ImageID: img.ID, Target: target}); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(target, "x"), nil, 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: write to an image: %v", name, err)
		}
		if targets, err := s.Volumes(t.Context()); err != nil || !slices.Equal(targets, []string{target}) {
			t.Errorf("volumes %v, %v", targets, err)
		}
		if err := s.Remove(t.Context(), img.ID); err != nil {
			t.Fatal(err)
		}
		if err := s.Collect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(target, "bin/busybox")); name != "scratch:1" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for range 2 {
			if err := s.UnmountImage(t.Context(), target); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Collect(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantEmpty(t, s)
	}
}

func TestMountImageIDMapped(t *testing.T) {
	if ok, err := overlayutils.SupportsIDMappedMounts(); err != nil || !ok {
		t.Skipf("the kernel does not idmap the layers of overlayfs: %v", err)
	}
	reg := testregistry.Start(t, testregistry.Options{})
	s := open(t, Options{})
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 65536}}
	for _, name := range []string{"scratch:1", "busybox:1", "config:1"} { // none, one and more layers
		img := pull(t, s, reg.Ref(t, name))
		target := filepath.Join(t.TempDir(), "volume")
		if err := s.MountImage(t.Context(), VolumeRequest{ImageID: img.ID, Target: target, UIDMap: ids, GIDMap: ids}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		t.Cleanup(func() {
			if err := s.UnmountImage(context.Background(), target); err != nil {
				t.Error(err)
			}
		})
		if name == "scratch:1" {
			continue // there is nothing in it
		}
		var st syscall.Stat_t
		if err := syscall.Stat(filepath.Join(target, "bin/busybox"), &st); err != nil || st.Uid != 200000 || st.Gid != 200000 {
			t.Errorf("%s: busybox belongs to %d:%d, %v", name, st.Uid, st.Gid, err)
		}
		if err := os.WriteFile(filepath.Join(target, "x"), nil, 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: write to an image: %v", name, err)
		}
	}
}

// TestWithContext: this kernel may have no SELinux, which would refuse the option.
func TestWithContext(t *testing.T) {
	overlay := []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/l"}}}
	got := withContext(overlay, "system_u:object_r:container_file_t:s0:c1,c2")
	if want := `context="system_u:object_r:container_file_t:s0:c1,c2"`; len(got) != 1 || !slices.Contains(got[0].Options, want) {
		t.Errorf("%+v lacks %s", got, want)
	}
	if len(overlay[0].Options) != 1 {
		t.Error("the snapshotter's own options were changed")
	}
	bind := []mount.Mount{{Type: "bind", Source: "/l", Options: []string{"ro"}}}
	if got := withContext(bind, "a:b:c:s0"); len(got[0].Options) != 1 {
		t.Errorf("a bind mount got %v", got[0].Options)
	}
}

func TestManyRootfses(t *testing.T) {
	reg := testregistry.Start(t, testregistry.Options{})
	s := open(t, Options{})
	img := pull(t, s, reg.Ref(t, "busybox:1"))
	base := t.TempDir()
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			id := string(rune('a'+i%26)) + string(rune('a'+i/26))
			target := filepath.Join(base, id)
			err := s.CreateRootfs(context.Background(), RootfsRequest{ContainerID: id, ImageID: img.ID, Target: target})
			if err == nil {
				_, err = s.RootfsUsage(context.Background(), id)
			}
			if err := errors.Join(err, s.RemoveRootfs(context.Background(), id, target)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	wantFiles(t, base)
	if c := s.Counters(); c.RootfsesCreated != 32 || c.RootfsesGone != 32 {
		t.Errorf("counters %+v", c)
	}
}

func mountsAt(t *testing.T, target string) int {
	t.Helper()
	infos, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(target))
	if err != nil {
		t.Fatal(err)
	}
	all, err := mountinfo.GetMounts(func(i *mountinfo.Info) (bool, bool) { return i.Mountpoint != target, false })
	if err != nil {
		t.Fatal(err)
	}
	return max(len(infos), len(all))
}
