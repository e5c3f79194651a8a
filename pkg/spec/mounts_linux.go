// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CheckMounts looks at the disk for a container's mounts and returns what Input.MountSources wants: for each mount the real
// path of its source, made if it was missing, able to propagate as asked. For an image mount the result is empty, for the
// caller to fill in. It checks all requests before it makes the first directory.
func CheckMounts(mounts []*runtimeapi.Mount) ([]string, error) {
	for i, m := range mounts {
		if err := ValidateMount(fmt.Sprintf("mounts[%d].", i), m); err != nil {
			return nil, err
		}
	}
	sources := make([]string, len(mounts))
	propagates := false
	for i, m := range mounts {
		if m.GetImage() != nil {
			continue
		}
		src, err := hostPath(m.GetHostPath())
		if err != nil {
			return nil, fmt.Errorf("mounts[%d].host_path: %w", i, err)
		}
		sources[i] = src
		propagates = propagates || m.GetPropagation() != runtimeapi.MountPropagation_PROPAGATION_PRIVATE
	}
	if !propagates {
		return sources, nil // most containers; reading the mount table of a busy node is not free
	}
	table, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	for i, m := range mounts {
		if err := checkPropagation(fmt.Sprintf("mounts[%d].", i), m.GetPropagation(), sources[i], table); err != nil {
			return nil, err
		}
	}
	return sources, nil
}

// hostPath follows symbolic links, as api.proto asks. A path that does not exist is made, as a directory: api.proto calls for an
// error, but a hostPath volume without a type promises "no checks" (kubernetes.io/docs, concepts/storage/volumes), pods rely on
// the directory that docker made there, and both peers make it.
func hostPath(p string) (string, error) {
	_, err := os.Stat(p)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.MkdirAll(p, 0o755)
	}
	if err != nil {
		return "", wrapPath(err)
	}
	return filepath.EvalSymlinks(p)
}

// wrapPath tells what is wrong with the path that the client named from trouble of our own.
func wrapPath(err error) error {
	for _, theirs := range []error{unix.ENOTDIR, unix.ELOOP, unix.ENAMETOOLONG, unix.EEXIST, fs.ErrExist, unix.EROFS} {
		if errors.Is(err, theirs) {
			return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	return err
}

// checkPropagation makes sure that the mount a source lies on is in the peer group that its propagation needs: shared to pass
// mounts on to the host, shared or a slave to receive them (mount_namespaces(7)). Otherwise the container would start, and its
// mounts silently stay where they are. Table is the daemon's mount table. Pure.
func checkPropagation(field string, p runtimeapi.MountPropagation, source string, table []*mountinfo.Info) error {
	if p == runtimeapi.MountPropagation_PROPAGATION_PRIVATE || source == "" {
		return nil
	}
	m := mountOf(source, table)
	if m == nil {
		return fmt.Errorf("%shost_path: %s lies on no mount: %w", field, source, errdefs.ErrInternal)
	}
	for tag := range strings.FieldsSeq(m.Optional) {
		if strings.HasPrefix(tag, "shared:") ||
			strings.HasPrefix(tag, "master:") && p == runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER {
			return nil
		}
	}
	need := "shared"
	if p == runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER {
		need = "shared or slave"
	}
	return unsupported(field+"propagation", "is %v, but %s lies on the mount %s, which is not %s", p, source, m.Mountpoint, need)
}

// mountOf returns the mount that a path lies on: the one with the longest mount point above it, and of several at the same
// point the last, which covers the others.
func mountOf(p string, table []*mountinfo.Info) *mountinfo.Info {
	var best *mountinfo.Info
	for _, m := range table {
		above := m.Mountpoint == "/" || p == m.Mountpoint || strings.HasPrefix(p, m.Mountpoint+"/")
		if above && (best == nil || len(m.Mountpoint) >= len(best.Mountpoint)) {
			best = m
		}
	}
	return best
}
