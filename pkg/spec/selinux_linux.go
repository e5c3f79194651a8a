// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"errors"
	"fmt"

	"github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// InitLabels returns a container's SELinux labels: by its options, else those of its pod (the process label of which is given,
// empty for none yet), else fresh ones with an MCS level of their own. Levels are reserved in this process until ReleaseLabels;
// after a restart of the daemon, ReserveLabels takes them back. Without SELinux all this does nothing and labels are empty.
func InitLabels(o *runtimeapi.SELinuxOption, podProcessLabel string) (Labels, error) {
	opts, err := SELinuxOptions(o)
	if err != nil {
		return Labels{}, err
	}
	if len(opts) == 0 && podProcessLabel != "" {
		if opts, err = selinux.DupSecOpt(podProcessLabel); err != nil {
			return Labels{}, fmt.Errorf("read the pod's SELinux label: %w", err)
		}
	}
	process, mount, err := label.InitLabels(opts)
	if err != nil {
		return Labels{}, fmt.Errorf("make SELinux labels: %w", err)
	}
	return Labels{Process: process, Mount: mount}, nil
}

// ReserveLabels keeps the level of labels that were made before a restart from being handed out again.
func ReserveLabels(l Labels) { selinux.ReserveLabel(l.Process) }

// ReleaseLabels gives a level back. For labels that InitLabels took from the pod, that is the pod's to do.
func ReleaseLabels(l Labels) { selinux.ReleaseLabel(l.Process) }

// Relabel makes the source of a mount accessible under a mount label, recursively, for Mount.selinux_relabel. A file system
// that keeps no labels is left as it is.
func Relabel(source, mountLabel string) error {
	if err := label.Relabel(source, mountLabel, false); err != nil && !errors.Is(err, unix.ENOTSUP) {
		return fmt.Errorf("relabel %s: %w", source, err)
	}
	return nil
}
