// SPDX-License-Identifier: Apache-2.0

package runc

import (
	"errors"
	"testing"

	"github.com/containerd/errdefs"
)

// TestClassify holds messages as runtimes have really printed them.
func TestClassify(t *testing.T) {
	other := errors.New("exit status 1")
	for text, want := range map[string]error{
		// runc 1.5.2
		`runc create failed: unable to start container process: error during container init: exec: "no-such": executable file not found in $PATH`:        ErrCommandNotFound,
		`runc create failed: unable to start container process: error during container init: exec: "/no/such": stat /no/such: no such file or directory`: ErrCommandNotFound,
		`runc create failed: unable to start container process: error during container init: exec: "/etc/passwd": permission denied`:                     ErrCommandNotExecutable,
		`runc create failed: unable to start container process: error during container init: exec: "/etc": is a directory`:                               ErrCommandNotExecutable,
		`exec failed: unable to start container process: exec: "nope": executable file not found in $PATH`:                                               ErrCommandNotFound,
		`container does not exist`:                                                                        errdefs.ErrNotFound,
		`cannot start a container that has stopped`:                                                       ErrStopped,
		`cannot exec in a stopped container`:                                                              ErrStopped,
		`cannot exec in a paused container (use --ignore-paused to override)`:                             errdefs.ErrFailedPrecondition,
		`unable to remove container's cgroup: Failed to remove paths: map[:/sys/fs/cgroup/memory/x]`:      ErrBusy,
		`container init was OOM-killed (memory limit too low?)`:                                           errdefs.ErrResourceExhausted,
		`failed to write "900": write /sys/fs/cgroup/cpuset/x/cpuset.cpus: numerical result out of range`: errdefs.ErrInvalidArgument,
		"writing file `cpuset.cpus`: Numerical result out of range":                                       errdefs.ErrInvalidArgument, // crun 1.8.1
		`container with given ID already exists`:                                                          errdefs.ErrAlreadyExists,
		`error mounting "/nowhere" to rootfs at "/x": mount /nowhere:/x: no such file or directory`:       other,
		``: other,
	} {
		if got := classify(text, other); !errors.Is(got, want) {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}
