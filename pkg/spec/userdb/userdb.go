// SPDX-License-Identifier: Apache-2.0

// Package userdb finds users and groups in the passwd and group files of a container image. It is pure: it reads what it is
// given, a line at a time, never more than [MaxSize], and trusts nothing in it. Lines that are not well formed are skipped, as
// glibc does, so a file can name a user but never turn a number that cannot be read into 0, which is root.
package userdb

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	// MaxSize is the most that is read of either file, in bytes. A larger file is an error.
	MaxSize = 1 << 20
	// MaxID is the highest uid or gid. Kubernetes' own limit (k8s.io/apimachinery validation.IsValidUserID), and a safe one:
	// ids beyond it have been read as negative, or as 0, by others (CVE-2024-40635).
	MaxID = 1<<31 - 1
	// MaxGroups is how many supplementary groups a process can have (NGROUPS_MAX of linux/limits.h).
	MaxGroups = 65536
)

// Files open the two databases. A file that is not there is fs.ErrNotExist and reads as empty. They are opened only if the
// answer needs them.
type Files struct {
	Passwd func() (io.ReadCloser, error)
	Group  func() (io.ReadCloser, error)
}

// Query asks who a process runs as.
type Query struct {
	UID   *uint32 // the user by number, who need not exist; or
	Name  string  // the user by name, who must
	GID   *uint32 // the primary group by number; or
	Group string  // by name; if neither, the user's own, or 0 if there is no such user

	Supplementary []uint32 // groups to have in any case
	Strict        bool     // do not add the groups that the group file lists the user in
}

// ID is who a process runs as.
type ID struct {
	UID    uint32
	GID    uint32
	Groups []uint32 // sorted, without doubles. GID is among them: a process outside its primary group could be denied by negative group permissions and shed that denial (CVE-2022-36109)
}

// Resolve answers a query. An unknown user or group, and a file too large, are errdefs.ErrInvalidArgument.
func Resolve(q Query, files Files) (ID, error) {
	u, err := findUser(q, files)
	if err != nil {
		return ID{}, err
	}
	id := ID{UID: u.uid, GID: u.gid}
	merge := !q.Strict && u.name != ""
	groups := slices.Clone(q.Supplementary)
	if q.GID != nil {
		id.GID = *q.GID
	}
	byName := q.GID == nil && q.Group != ""
	if byName || merge {
		found := false
		err := eachGroup(files.Group, func(g group) bool {
			if byName && !found && g.name == q.Group {
				id.GID, found = g.gid, true
			}
			if merge && slices.Contains(g.members, u.name) {
				groups = append(groups, g.gid)
			}
			return merge || !found
		})
		if err != nil {
			return ID{}, err
		}
		if byName && !found {
			return ID{}, fmt.Errorf("group %q is not in the image's /etc/group: %w", q.Group, errdefs.ErrInvalidArgument)
		}
	}
	groups = append(groups, id.GID)
	slices.Sort(groups)
	id.Groups = slices.Compact(groups)
	if len(id.Groups) > MaxGroups {
		return ID{}, fmt.Errorf("user would be in %d groups; the kernel allows %d: %w", len(id.Groups), MaxGroups, errdefs.ErrInvalidArgument)
	}
	return id, nil
}

// findUser looks a user up as far as the query needs it: with uid and gid given and no groups to merge, the file has nothing to
// say.
func findUser(q Query, files Files) (user, error) {
	if q.UID != nil && q.GID != nil && q.Strict {
		return user{uid: *q.UID}, nil
	}
	if q.UID == nil && q.Name == "" {
		return user{}, fmt.Errorf("neither a uid nor a user name: %w", errdefs.ErrInvalidArgument)
	}
	var out user
	found := false
	err := eachUser(files.Passwd, func(u user) bool {
		if q.UID != nil && u.uid == *q.UID || q.UID == nil && u.name == q.Name {
			out, found = u, true // of several, the first, like getpwnam(3)
		}
		return !found
	})
	switch {
	case err != nil:
		return user{}, err
	case found:
		return out, nil
	case q.UID != nil:
		return user{uid: *q.UID}, nil
	}
	return user{}, fmt.Errorf("user %q is not in the image's /etc/passwd: %w", q.Name, errdefs.ErrInvalidArgument)
}

// user is a line of passwd(5): name:password:UID:GID:GECOS:directory:shell.
type user struct {
	name     string
	uid, gid uint32
}

func eachUser(open func() (io.ReadCloser, error), visit func(user) bool) error {
	return eachLine("/etc/passwd", open, func(line string) bool {
		f := strings.Split(line, ":")
		if len(f) < 4 || !ValidName(f[0]) {
			return true
		}
		uid, err1 := ParseID(f[2])
		gid, err2 := ParseID(f[3])
		if err1 != nil || err2 != nil {
			return true
		}
		return visit(user{name: f[0], uid: uid, gid: gid})
	})
}

// group is a line of group(5): name:password:GID:member,member.
type group struct {
	name    string
	gid     uint32
	members []string
}

func eachGroup(open func() (io.ReadCloser, error), visit func(group) bool) error {
	return eachLine("/etc/group", open, func(line string) bool {
		f := strings.Split(line, ":")
		if len(f) < 3 || !ValidName(f[0]) {
			return true
		}
		gid, err := ParseID(f[2])
		if err != nil {
			return true
		}
		g := group{name: f[0], gid: gid}
		if len(f) > 3 {
			g.members = strings.Split(strings.TrimSpace(f[3]), ",")
		}
		return visit(g)
	})
}

// eachLine visits the lines of a file that are neither empty nor comments, until visit returns false.
func eachLine(name string, open func() (io.ReadCloser, error), visit func(string) bool) error {
	r, err := open()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer r.Close()
	capped := &io.LimitedReader{R: r, N: MaxSize + 1}
	s := bufio.NewScanner(capped)
	s.Buffer(nil, MaxSize+1)
	for s.Scan() {
		if capped.N <= 0 {
			break
		}
		if line := s.Text(); line != "" && line[0] != '#' && !visit(line) {
			return nil
		}
	}
	if errors.Is(s.Err(), bufio.ErrTooLong) || capped.N <= 0 {
		return fmt.Errorf("%s of the image has more than %d bytes: %w", name, MaxSize, errdefs.ErrInvalidArgument)
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("read %s of the image: %w", name, err)
	}
	return nil
}

// ParseID reads a uid or gid: decimal digits only, 0 to MaxID.
func ParseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n > MaxID {
		return 0, fmt.Errorf("%q is not an id from 0 to %d: %w", s, MaxID, errdefs.ErrInvalidArgument)
	}
	return uint32(n), nil
}

// ValidName tells whether a user or group can be called that in these files: not empty, without separators and control
// characters, and not one of the lines that start with + or - (NIS compatibility, nsswitch.conf(5)).
func ValidName(s string) bool {
	return s != "" && s[0] != '+' && s[0] != '-' && !strings.ContainsFunc(s, func(r rune) bool {
		return r == ':' || r == ',' || r <= ' ' || r == 0x7f
	})
}
