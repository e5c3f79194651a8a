// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Levels gives out SELinux labels and keeps account of their MCS levels, so that a fresh label never has the level of somebody
// who lives: go-selinux reserves levels, but as a set, and two pods may well ask for the same one. Without SELinux all labels are
// empty, and nothing is kept. Safe for concurrent use.
type Levels struct {
	init             func(options []string) (process, mount string, err error)
	reserve, release func(label string)

	mu    sync.Mutex
	users map[string]int // by level
}

// NewLevels returns the account of this process. The kernel's and the policy's part is go-selinux's.
func NewLevels() *Levels {
	return &Levels{init: label.InitLabels, reserve: selinux.ReserveLabel, release: selinux.ReleaseLabel, users: map[string]int{}}
}

// Init makes labels: those of a container from its options over those of its pod, of a pod (whose pod argument is empty) from its
// options over a fresh label with an MCS level of its own. Release gives them back.
func (l *Levels) Init(o *runtimeapi.SELinuxOption, pod Labels) (Labels, error) {
	opts, err := labelOptions(o, pod.Process)
	if err != nil {
		return Labels{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	process, mount, err := l.init(opts)
	if err != nil {
		return Labels{}, fmt.Errorf("make SELinux labels: %w", err)
	}
	if process != "" {
		l.users[levelOf(process)]++ // init has reserved it
	}
	return Labels{Process: process, Mount: mount}, nil
}

// Reserve takes labels back into account that were made before a restart of the daemon.
func (l *Levels) Reserve(labels Labels) {
	if labels.Process == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users[levelOf(labels.Process)]++
	l.reserve(labels.Process)
}

// Release gives labels back. Their level is free once all who had it have done so.
func (l *Levels) Release(labels Labels) {
	if labels.Process == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	level := levelOf(labels.Process)
	if l.users[level]--; l.users[level] > 0 {
		return
	}
	delete(l.users, level)
	l.release(labels.Process)
}

// levelOf is the level of a label; empty if it has none.
func levelOf(label string) string {
	c, err := selinux.NewContext(label)
	if err != nil {
		return ""
	}
	return c["level"]
}

// labelOptions lays a container's options over its pod's label: what the container leaves open is as in the pod, above all the
// level, without which containers of one pod could not share files.
func labelOptions(o *runtimeapi.SELinuxOption, podProcessLabel string) ([]string, error) {
	own, err := SELinuxOptions(o)
	if err != nil || podProcessLabel == "" {
		return own, err
	}
	pod, err := selinux.DupSecOpt(podProcessLabel)
	if err != nil {
		return nil, fmt.Errorf("read the pod's SELinux label: %w", err)
	}
	return slices.Concat(pod, own), nil // InitLabels takes the last of two
}

// Relabel makes a file or directory accessible under a mount label, recursively: to this label's level alone, or, if shared, to
// every container. A file system that keeps no labels is left as it is, and without SELinux everything is.
func Relabel(path, mountLabel string, shared bool) error {
	if err := label.Relabel(path, mountLabel, shared); err != nil && !errors.Is(err, unix.ENOTSUP) {
		return fmt.Errorf("relabel %s: %w", path, err)
	}
	return nil
}

// MountData adds a mount label to the data of a mount(2) that makes a file system.
func MountData(data, mountLabel string) string { return label.FormatMountLabel(data, mountLabel) }
