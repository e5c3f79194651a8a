// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"slices"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/pkg/spec/userdb"
)

// user sets who the first process runs as. HOME is left to the OCI runtime, which reads it inside the container.
func (b *builder) user() error {
	u := &b.g.Config.Process.User
	u.UID, u.GID = b.in.User.UID, b.in.User.GID
	u.AdditionalGids = slices.Clone(b.in.User.Groups)
	return nil
}

// UserQuery translates the security context, or the image's User where that names nobody, into a question to the image's user
// database.
//
//	run_as_user, run_as_username   the user; at most one of them
//	run_as_group                   the primary group; only together with a user
//	image "user[:group]"           numbers are ids, everything else names; not looked at if the context names a user
//	nothing                        uid 0
func UserQuery(sc *runtimeapi.LinuxContainerSecurityContext, imageUser string) (userdb.Query, error) {
	const field = "linux.security_context."
	var q userdb.Query
	switch sc.GetSupplementalGroupsPolicy() {
	case runtimeapi.SupplementalGroupsPolicy_Merge:
	case runtimeapi.SupplementalGroupsPolicy_Strict:
		q.Strict = true
	default:
		return q, invalid(field+"supplemental_groups_policy", "%d is neither Merge nor Strict", sc.GetSupplementalGroupsPolicy())
	}
	for i, g := range sc.GetSupplementalGroups() {
		gid, err := checkID(fmt.Sprintf("%ssupplemental_groups[%d]", field, i), g)
		if err != nil {
			return q, err
		}
		q.Supplementary = append(q.Supplementary, *gid)
	}
	uid, name, gid := sc.GetRunAsUser(), sc.GetRunAsUsername(), sc.GetRunAsGroup()
	switch {
	case uid != nil && name != "":
		return q, invalid(field+"run_as_username", "and run_as_user are both set")
	case gid != nil && uid == nil && name == "":
		return q, invalid(field+"run_as_group", "is set without run_as_user or run_as_username")
	case name != "" && !userdb.ValidName(name):
		return q, invalid(field+"run_as_username", "%q is not a user name", name)
	case uid == nil && name == "":
		err := imageQuery(&q, imageUser)
		return q, err
	}
	q.Name = name
	var err error
	if uid != nil {
		if q.UID, err = checkID(field+"run_as_user", uid.GetValue()); err != nil {
			return q, err
		}
	}
	if gid != nil {
		q.GID, err = checkID(field+"run_as_group", gid.GetValue())
	}
	return q, err
}

// imageQuery reads the User of an image (image-spec config.md): user, uid, user:group, uid:gid, uid:group, user:gid.
func imageQuery(q *userdb.Query, s string) error {
	user, group, hasGroup := strings.Cut(s, ":")
	bad := func(what, word string) error {
		return invalid("User of the image", "%q: %q is not a %s", s, word, what)
	}
	switch {
	case s == "":
		q.UID = new(uint32)
		return nil
	case digits(user):
		uid, err := userdb.ParseID(user)
		if err != nil {
			return bad("uid", user)
		}
		q.UID = &uid
	case userdb.ValidName(user):
		q.Name = user
	default:
		return bad("user name", user)
	}
	switch {
	case !hasGroup || group == "": // "user:" is what docker accepts as "user"
	case digits(group):
		gid, err := userdb.ParseID(group)
		if err != nil {
			return bad("gid", group)
		}
		q.GID = &gid
	case userdb.ValidName(group):
		q.Group = group
	default:
		return bad("group name", group)
	}
	return nil
}

// digits tells whether a word is a number, however large: "99999999999" is a bad uid, not somebody's name.
func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

func checkID(field string, v int64) (*uint32, error) {
	if v < 0 || v > userdb.MaxID {
		return nil, invalid(field, "%d is not an id from 0 to %d", v, userdb.MaxID)
	}
	id := uint32(v)
	return &id, nil
}
