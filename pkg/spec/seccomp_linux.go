// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ReadSeccomp returns what Input.Seccomp wants: the content of the Localhost profile that applies to the container, nil if none
// does. The kubelet sends an absolute path below its own profile directory; whatever is there, only a regular file of at most
// MaxSeccompProfile bytes is read, never through a link as the last step, and never waiting.
func ReadSeccomp(sc *runtimeapi.LinuxContainerSecurityContext, h Handler) ([]byte, error) {
	p, err := SeccompProfile(sc, h)
	if err != nil || p.GetProfileType() != runtimeapi.SecurityProfile_Localhost {
		return nil, err
	}
	b, err := readProfile(p.GetLocalhostRef())
	if err != nil {
		return nil, fmt.Errorf("%s.localhost_ref: %w: %w", seccompField, err, errdefs.ErrInvalidArgument)
	}
	return b, nil
}

func readProfile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, MaxSeccompProfile+1))
	if err == nil && len(b) > MaxSeccompProfile {
		err = fmt.Errorf("%s has more than %d bytes", path, MaxSeccompProfile)
	}
	return b, err
}
