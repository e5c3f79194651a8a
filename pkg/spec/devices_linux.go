// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxDevices bounds how many nodes one directory may yield. A host has a few hundred.
const maxDevices = 4096

// FindDevices returns what Input.Devices wants: for each device of the request its nodes, with paths relative to host_path. A
// host_path may be a symbolic link, to a node or a directory; links below a directory are not followed.
func FindDevices(devices []*runtimeapi.Device) ([][]specs.LinuxDevice, error) {
	out := make([][]specs.LinuxDevice, 0, len(devices))
	for i, d := range devices {
		field := fmt.Sprintf("devices[%d].host_path", i)
		if !filepath.IsAbs(d.GetHostPath()) {
			return nil, invalid(field, "%q is not absolute", d.GetHostPath())
		}
		real, err := filepath.EvalSymlinks(d.GetHostPath())
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %w", field, err, errdefs.ErrInvalidArgument)
		}
		nodes, err := deviceNodes(real)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		if len(nodes) == 0 {
			return nil, invalid(field, "%q is not a device and holds none", d.GetHostPath())
		}
		out = append(out, nodes)
	}
	return out, nil
}

// HostDevices returns the device nodes below /dev with their full paths, for privileged containers. What belongs to one mount
// namespace (pts, shm, mqueue, console) is left out: the container has its own.
func HostDevices() ([]specs.LinuxDevice, error) {
	nodes, err := deviceNodes("/dev")
	if err != nil {
		return nil, fmt.Errorf("list the host's devices: %w", err)
	}
	for i := range nodes {
		nodes[i].Path = filepath.Join("/dev", nodes[i].Path)
	}
	return nodes, nil
}

// notPassedOn are directories of /dev that are no devices of the machine. The dotted ones are lxd's and old udev's private
// ones (lxc/lxd#2825, opencontainers/runc#2093).
var notPassedOn = []string{"pts", "shm", "mqueue", "fd", ".lxc", ".lxd-mounts", ".udev"}

// deviceNodes returns the device at top, or those below it, with paths relative to top. What vanishes meanwhile is not there.
func deviceNodes(top string) ([]specs.LinuxDevice, error) {
	var out []specs.LinuxDevice
	err := filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != top {
			return nil
		}
		if err != nil {
			return err
		}
		if e.IsDir() {
			if path != top && slices.Contains(notPassedOn, e.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		if e.Type()&os.ModeDevice == 0 || path != top && e.Name() == "console" {
			return nil
		}
		d, err := deviceNode(path)
		if err != nil || d == nil {
			return err
		}
		if d.Path, err = filepath.Rel(top, path); err != nil {
			return err
		}
		if out = append(out, *d); len(out) > maxDevices {
			return fmt.Errorf("%s holds more than %d devices: %w", top, maxDevices, errdefs.ErrInvalidArgument)
		}
		return nil
	})
	return out, err
}

// deviceNode describes one node; nil if there is none any more.
func deviceNode(path string) (*specs.LinuxDevice, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		if err == unix.ENOENT {
			return nil, nil
		}
		return nil, fmt.Errorf("lstat %s: %w", path, err)
	}
	kind := ""
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		kind = "c"
	case unix.S_IFBLK:
		kind = "b"
	default:
		return nil, nil
	}
	mode := os.FileMode(st.Mode &^ unix.S_IFMT) //nolint:unconvert // 32 bits here, less elsewhere
	return &specs.LinuxDevice{
		Type: kind, Major: int64(unix.Major(uint64(st.Rdev))), Minor: int64(unix.Minor(uint64(st.Rdev))),
		FileMode: &mode, UID: &st.Uid, GID: &st.Gid,
	}, nil
}
