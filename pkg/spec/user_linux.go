// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/rootfsfile"
	"github.com/embedcri/embedcri/pkg/spec/userdb"
)

// LookupUser finds out who a container's first process runs as. Rootfs is the mounted root of the container, before anything
// else is mounted into it; imageUser is the User of the image's configuration. A missing /etc/passwd or /etc/group is fine as
// long as nobody is to be found by name.
func LookupUser(rootfs string, c *runtimeapi.ContainerConfig, imageUser string) (User, error) {
	q, err := UserQuery(c.GetLinux().GetSecurityContext(), imageUser)
	if err != nil {
		return User{}, err
	}
	open := func(name string) func() (io.ReadCloser, error) {
		return func() (io.ReadCloser, error) {
			f, err := rootfsfile.Open(rootfs, name, userdb.MaxSize)
			for _, theirs := range []error{rootfsfile.ErrNotRegular, rootfsfile.ErrTooLarge, unix.ELOOP, unix.ENOTDIR, unix.ENAMETOOLONG, unix.EXDEV} {
				if errors.Is(err, theirs) {
					return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
				}
			}
			return f, err
		}
	}
	id, err := userdb.Resolve(q, userdb.Files{Passwd: open("/etc/passwd"), Group: open("/etc/group")})
	if err != nil {
		return User{}, fmt.Errorf("%s: %w", userField(c.GetLinux().GetSecurityContext(), imageUser), err)
	}
	return User{UID: id.UID, GID: id.GID, Groups: id.Groups}, nil
}

// userField names what decides about the user, for errors.
func userField(sc *runtimeapi.LinuxContainerSecurityContext, imageUser string) string {
	switch {
	case sc.GetRunAsUsername() != "":
		return "linux.security_context.run_as_username"
	case sc.GetRunAsUser() != nil:
		return "linux.security_context.run_as_user"
	}
	return fmt.Sprintf("user %q of the image", imageUser)
}
