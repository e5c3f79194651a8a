// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Root is where the hierarchies are mounted.
const Root = "/sys/fs/cgroup"

// Unified tells whether there is only cgroup v2.
var Unified = sync.OnceValue(func() bool {
	var st unix.Statfs_t
	return unix.Statfs(Root, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
})

// Cgroup is one cgroup, which may or may not exist.
type Cgroup struct {
	path    string // below the root of its hierarchy
	unified bool
}

// FromOCI returns the cgroup of an OCI linux.cgroupsPath: a path below the root, or slice:prefix:name for the systemd driver
// (runtime-spec, config-linux.md, "Cgroups Path"; the form with colons is runc's).
func FromOCI(p string) *Cgroup {
	if parts := strings.Split(p, ":"); len(parts) == 3 {
		p = filepath.Join(expandSlice(parts[0]), parts[1]+"-"+parts[2]+".scope")
	}
	return &Cgroup{path: filepath.Join("/", p), unified: Unified()}
}

// expandSlice turns a-b.slice into a.slice/a-b.slice (systemd.slice(5)).
func expandSlice(slice string) string {
	name := strings.TrimSuffix(slice, ".slice")
	if name == "-" || name == "" {
		return ""
	}
	var path, prefix string
	for part := range strings.SplitSeq(name, "-") {
		prefix += part
		path = filepath.Join(path, prefix+".slice")
		prefix += "-"
	}
	return path
}

// Path returns the cgroup's path below the root of its hierarchy.
func (c *Cgroup) Path() string { return c.path }

// Dir returns its directory in the hierarchy of a v1 controller; on v2 there is only one.
func (c *Cgroup) Dir(controller string) string {
	if c.unified {
		return filepath.Join(Root, c.path)
	}
	return filepath.Join(Root, controller, c.path)
}

// procDir is where membership is read: on v1 the freezer's hierarchy, as killing needs it too.
func (c *Cgroup) procDir() string { return c.Dir("freezer") }

// Sub makes a sub-cgroup and returns it with the argument that runc exec --cgroup takes for it. On v1 it is in the freezer
// hierarchy only. It carries no controller, so v2's rule of no internal processes does not apply (cgroup-v2.rst, "No Internal
// Process Constraint").
func (c *Cgroup) Sub(name string) (*Cgroup, string, error) {
	s := &Cgroup{path: filepath.Join(c.path, name), unified: c.unified}
	if err := os.Mkdir(s.procDir(), 0o755); err != nil {
		return nil, "", err
	}
	if c.unified {
		return s, name, nil
	}
	return s, "freezer:" + name, nil
}

// Remove removes a cgroup made by Sub.
func (c *Cgroup) Remove() error {
	err := os.Remove(c.procDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// dirs returns its directories in all hierarchies that have it.
func (c *Cgroup) dirs() []string {
	if c.unified {
		if exists(c.procDir()) {
			return []string{c.procDir()}
		}
		return nil
	}
	hierarchies, err := os.ReadDir(Root)
	if err != nil {
		return nil
	}
	var dirs []string
	for _, h := range hierarchies {
		if d := filepath.Join(Root, h.Name(), c.path); h.IsDir() && exists(d) {
			dirs = append(dirs, d)
		}
	}
	return dirs
}

// Exists tells whether any hierarchy has it.
func (c *Cgroup) Exists() bool { return len(c.dirs()) > 0 }

// RemoveAll removes it, with all below it, from all hierarchies. EBUSY: there are processes in it, or zombies.
func (c *Cgroup) RemoveAll() error {
	for _, top := range c.dirs() {
		var all []string
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				all = append(all, path)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
		for i := len(all) - 1; i >= 0; i-- { // the walk lists parents first
			if err := unix.Rmdir(all[i]); err != nil && !errors.Is(err, unix.ENOENT) {
				return &os.PathError{Op: "rmdir", Path: all[i], Err: err}
			}
		}
	}
	return nil
}

// Pids returns the processes of the cgroup and of all below it. A cgroup that does not exist has none.
func (c *Cgroup) Pids() ([]int, error) {
	var pids []int
	err := filepath.WalkDir(c.procDir(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if !d.IsDir() {
			return nil
		}
		b, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) { // removed meanwhile
				return nil
			}
			return err
		}
		for f := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 { // 0: a process of another pid namespace
				pids = append(pids, pid)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list processes of cgroup %s: %w", c.path, err)
	}
	return pids, nil
}

// Alive tells whether any process is left.
func (c *Cgroup) Alive() (bool, error) {
	pids, err := c.Pids()
	return len(pids) > 0, err
}

// killRounds bounds Kill: a member that forks faster than it can be killed loses against a frozen cgroup in the first round.
const killRounds = 20

// Kill sends SIGKILL to all processes of the cgroup and below. When it returns they are dying, not necessarily dead.
func (c *Cgroup) Kill() error {
	if c.unified {
		err := os.WriteFile(filepath.Join(c.procDir(), "cgroup.kill"), []byte("1"), 0)
		if err == nil || errors.Is(err, fs.ErrNotExist) && !exists(c.procDir()) {
			return nil
		}
		// Kernels before 5.14 have no cgroup.kill.
	}
	for range killRounds {
		pids, err := c.Pids()
		if err != nil || len(pids) == 0 {
			return err
		}
		// Frozen processes neither fork nor end, so the pids stay theirs. Without a freezer it is a race, which the rounds win.
		frozen := c.Freeze() == nil
		if frozen {
			if pids, err = c.Pids(); err != nil {
				return errors.Join(err, c.Thaw())
			}
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if err := c.Thaw(); err != nil && frozen {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// KillSession sends SIGKILL to the members of the cgroup that belong to session sid (setsid(2)).
func (c *Cgroup) KillSession(sid int) error {
	pids, err := c.Pids()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if got, err := unix.Getsid(pid); err == nil && got == sid {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	return nil
}

// Freeze stops all processes and waits, for a bounded time, until they have stopped.
func (c *Cgroup) Freeze() error { return c.setFrozen(true) }

// Thaw lets them run on.
func (c *Cgroup) Thaw() error { return c.setFrozen(false) }

// Frozen tells whether it is frozen, or about to be. One that does not exist is not.
func (c *Cgroup) Frozen() bool {
	file, off := "freezer.state", "THAWED"
	if c.unified {
		file, off = "cgroup.freeze", "0"
	}
	b, err := os.ReadFile(filepath.Join(c.procDir(), file))
	return err == nil && strings.TrimSpace(string(b)) != off
}

const (
	freezeTries = 200
	freezeWait  = time.Millisecond
)

func (c *Cgroup) setFrozen(frozen bool) error {
	file, on, off := "freezer.state", "FROZEN", "THAWED"
	if c.unified {
		file, on, off = "cgroup.freeze", "1", "0"
	}
	want := off
	if frozen {
		want = on
	}
	path := filepath.Join(c.procDir(), file)
	for range freezeTries {
		if err := os.WriteFile(path, []byte(want), 0); err != nil {
			return err
		}
		if c.unified || !frozen {
			return nil // v2 does the rest by itself; SIGKILL gets through to frozen processes
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(b)) == want {
			return nil
		}
		time.Sleep(freezeWait) // FREEZING: some process has not reached its freeze point; writing again retries (freezer-subsystem.rst)
	}
	return fmt.Errorf("freeze cgroup %s: still freezing after %v", c.path, freezeTries*freezeWait)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Subs returns the sub-cgroups whose names begin with prefix. A cgroup that does not exist has none.
func (c *Cgroup) Subs(prefix string) ([]*Cgroup, error) {
	entries, err := os.ReadDir(c.procDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list cgroup %s: %w", c.path, err)
	}
	var subs []*Cgroup
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), prefix) {
			subs = append(subs, &Cgroup{path: filepath.Join(c.path, e.Name()), unified: c.unified})
		}
	}
	return subs, nil
}
