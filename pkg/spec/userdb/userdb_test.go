// SPDX-License-Identifier: Apache-2.0

package userdb

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

const passwdFile = `# a comment
root:x:0:0:root:/root:/bin/sh
broken
nouid:x::5:::
letters:x:abc:5:::
minus:x:-1:5:::
huge:x:4294967296:5:::
big:x:2147483648:5:::
+nis:x:7:7:::
alice:x:1000:1001:Alice,,,:/home/alice:/bin/sh
alice:x:0:0:second entry:/:/bin/sh
1234:x:5678:5679:a name of digits:/:/bin/sh
bob:x:1002:1002
`

const groupFile = `root:x:0:
alice:x:1001:
books:x:50000:bob,alice
films:x:50001:alice
broken:x:x:alice
empty:x:50002
daemon:x:1:root,alice2
wheel:x:10:root
`

// files serve strings; an empty one is missing.
func files(passwd, group string) Files {
	open := func(s string) func() (io.ReadCloser, error) {
		return func() (io.ReadCloser, error) {
			if s == "" {
				return nil, fs.ErrNotExist
			}
			return io.NopCloser(strings.NewReader(s)), nil
		}
	}
	return Files{Passwd: open(passwd), Group: open(group)}
}

func id(n uint32) *uint32 { return &n }

func TestResolve(t *testing.T) {
	for _, tt := range []struct {
		name   string
		q      Query
		uid    uint32
		gid    uint32
		groups []uint32
		bad    string // part of an error
	}{
		{name: "root", q: Query{UID: id(0)}, groups: []uint32{0, 10, 1}},
		{name: "by name", q: Query{Name: "alice"}, uid: 1000, gid: 1001, groups: []uint32{1001, 50000, 50001}},
		{name: "by uid", q: Query{UID: id(1000)}, uid: 1000, gid: 1001, groups: []uint32{1001, 50000, 50001}},
		{name: "merge", q: Query{UID: id(1000), GID: id(1000), Supplementary: []uint32{60000, 50000}}, uid: 1000, gid: 1000, groups: []uint32{1000, 50000, 50001, 60000}},
		{name: "strict", q: Query{UID: id(1000), GID: id(1000), Supplementary: []uint32{60000}, Strict: true}, uid: 1000, gid: 1000, groups: []uint32{1000, 60000}},
		{name: "strict keeps the primary group of the file", q: Query{Name: "alice", Strict: true}, uid: 1000, gid: 1001, groups: []uint32{1001}},
		{name: "unknown uid", q: Query{UID: id(4711)}, uid: 4711, gid: 0, groups: []uint32{0}},
		{name: "group by name", q: Query{Name: "alice", Group: "films"}, uid: 1000, gid: 50001, groups: []uint32{50000, 50001}},
		{name: "group by name, strict", q: Query{UID: id(4711), Group: "films", Strict: true}, uid: 4711, gid: 50001, groups: []uint32{50001}},
		{name: "short line", q: Query{Name: "bob"}, uid: 1002, gid: 1002, groups: []uint32{1002, 50000}},
		{name: "a name of digits is a name", q: Query{Name: "1234"}, uid: 5678, gid: 5679, groups: []uint32{5679}},
		{name: "unknown name", q: Query{Name: "mallory"}, bad: `user "mallory"`},
		{name: "uid missing in file", q: Query{Name: "nouid"}, bad: "nouid"},
		{name: "uid of letters", q: Query{Name: "letters"}, bad: "letters"},
		{name: "negative uid", q: Query{Name: "minus"}, bad: "minus"},
		{name: "uid of 33 bits", q: Query{Name: "huge"}, bad: "huge"},
		{name: "uid beyond the limit", q: Query{Name: "big"}, bad: "big"},
		{name: "NIS line", q: Query{Name: "+nis"}, bad: "nis"},
		{name: "unknown group", q: Query{Name: "alice", Group: "none"}, bad: `group "none"`},
		{name: "nobody", q: Query{}, bad: "neither"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Resolve(tt.q, files(passwdFile, groupFile))
			if tt.bad != "" {
				if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tt.bad) {
					t.Errorf("got %+v, %v; want an error about %s", got, err, tt.bad)
				}
				return
			}
			slices.Sort(tt.groups)
			if err != nil || got.UID != tt.uid || got.GID != tt.gid || !slices.Equal(got.Groups, tt.groups) {
				t.Errorf("got %+v, %v; want %d:%d %v", got, err, tt.uid, tt.gid, tt.groups)
			}
		})
	}
}

// TestFilesNotNeeded: what can be answered without a file does not open it, so a hostile one does no harm.
func TestFilesNotNeeded(t *testing.T) {
	bomb := func() (io.ReadCloser, error) { return nil, errors.New("opened") }
	if _, err := Resolve(Query{UID: id(1), GID: id(1), Strict: true}, Files{Passwd: bomb, Group: bomb}); err != nil {
		t.Error(err)
	}
	if _, err := Resolve(Query{UID: id(4711)}, Files{Passwd: files("", "").Passwd, Group: bomb}); err != nil {
		t.Errorf("a user without a name is in no group: %v", err)
	}
	if _, err := Resolve(Query{UID: id(1)}, Files{Passwd: bomb, Group: bomb}); err == nil || !strings.Contains(err.Error(), "opened") {
		t.Errorf("trouble with a file is hidden: %v", err)
	}
}

func TestMissingFiles(t *testing.T) {
	got, err := Resolve(Query{UID: id(5), Supplementary: []uint32{6}}, files("", ""))
	if err != nil || got.GID != 0 || !slices.Equal(got.Groups, []uint32{0, 6}) {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := Resolve(Query{Name: "root"}, files("", "")); !errdefs.IsInvalidArgument(err) {
		t.Errorf("name without a file: %v", err)
	}
}

// zeroes never ends.
type zeroes struct{ read int }

func (z *zeroes) Read(p []byte) (int, error) { clear(p); z.read += len(p); return len(p), nil }
func (*zeroes) Close() error                 { return nil }

func TestTooLarge(t *testing.T) {
	z := &zeroes{}
	f := files("", groupFile)
	f.Passwd = func() (io.ReadCloser, error) { return z, nil }
	if _, err := Resolve(Query{Name: "alice"}, f); !errdefs.IsInvalidArgument(err) {
		t.Errorf("endless passwd: %v", err)
	}
	if z.read > 2*MaxSize {
		t.Errorf("read %d bytes of it", z.read)
	}
	lines := strings.Repeat("x:x:1:1:::\n", MaxSize/10)
	if _, err := Resolve(Query{Name: "alice"}, files(lines, groupFile)); !errdefs.IsInvalidArgument(err) {
		t.Errorf("many users: %v", err)
	}
	if _, err := Resolve(Query{UID: id(1000)}, files(passwdFile, lines)); !errdefs.IsInvalidArgument(err) {
		t.Errorf("many groups: %v", err)
	}
}

func TestTooManyGroups(t *testing.T) {
	var b strings.Builder
	for i := range MaxGroups + 1 {
		fmt.Fprintf(&b, "::%d:a\n", i) // an empty name: skipped
	}
	if got, err := Resolve(Query{Name: "a"}, files("a:x:1:1", b.String())); err != nil || len(got.Groups) != 1 {
		t.Errorf("groups without a name count: %d, %v", len(got.Groups), err)
	}
	b.Reset()
	for i := range MaxGroups + 1 {
		fmt.Fprintf(&b, "g::%d:a\n", i)
	}
	if got, err := Resolve(Query{Name: "a"}, files("a:x:1:1", b.String())); !errdefs.IsInvalidArgument(err) {
		t.Errorf("%d groups: %v", len(got.Groups), err)
	}
}

func FuzzResolve(f *testing.F) {
	f.Add("alice", "books", passwdFile, groupFile)
	f.Add("a\nb", "", "a\nb:x:1:1", "")
	f.Add("", "x", "\x00:\x00:0:0", ":::::")
	f.Fuzz(func(t *testing.T, user, grp, p, g string) {
		got, err := Resolve(Query{Name: user, Group: grp}, files(p, g))
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Fatalf("of the wrong class: %v", err)
			}
			return
		}
		if !ValidName(user) || got.UID > MaxID || got.GID > MaxID || !slices.Contains(got.Groups, got.GID) || !slices.IsSorted(got.Groups) {
			t.Fatalf("%q:%q became %+v", user, grp, got)
		}
		// Only a line that says 0 makes root.
		if got.UID == 0 && !strings.Contains(p, ":0") {
			t.Fatalf("%q became root by %q", user, p)
		}
	})
}
