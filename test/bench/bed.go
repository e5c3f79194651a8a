// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/testenv"
	"github.com/embedcri/embedcri/internal/testregistry"
)

// bed is the test bed: the registry and the runtimes that take turns.
type bed struct {
	o        options
	results  *results
	dir      string // of everything on disk
	state    string // of everything that daemons keep on tmpfs
	tools    string // of runc and, below cni/, the plug-ins
	registry *testregistry.Registry
	image    string // of the containers: busybox, /bin/wait, /bin/stream
	pause    string // for runtimes that need one
	peers    []*peer
	forward  []byte // ip_forward before the bridge plug-in set it
}

const ipForward = "/proc/sys/net/ipv4/ip_forward"

func newBed(ctx context.Context, o options, r *results) (_ *bed, err error) {
	b := &bed{o: o, results: r}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.remove())
		}
	}()
	if os.Geteuid() != 0 {
		return nil, errors.New("runtimes have to be run by root")
	}
	if b.forward, err = os.ReadFile(ipForward); err != nil {
		return nil, err
	}
	if b.tools, err = filepath.Abs("bin/tools"); err != nil {
		return nil, err
	}
	if b.dir, err = os.MkdirTemp(o.work, "ecbench-"); err != nil {
		return nil, err
	}
	b.state = filepath.Join("/run", filepath.Base(b.dir))
	if b.registry, err = testregistry.Serve(testregistry.Options{}); err != nil {
		return nil, err
	}
	if b.image, err = b.registry.Add("bench:1"); err != nil {
		return nil, err
	}
	if b.pause, err = b.registry.Add("pause:1"); err != nil {
		return nil, err
	}
	if err := b.addPeers(); err != nil {
		return nil, err
	}
	for _, p := range b.peers {
		if err := p.start(ctx); err != nil {
			return nil, err
		}
		if err := p.pull(ctx, b.image); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (b *bed) addPeers() error {
	var ours *daemon
	for name := range strings.SplitSeq(b.o.peers, ",") {
		switch name {
		case "":
		case "embedcri":
			d, err := newEmbedcri(b)
			if err != nil {
				return err
			}
			ours = d
			b.peers = append(b.peers, &peer{name: name, daemon: d})
		case "crun":
			if _, err := testenv.FindCrun(); err != nil {
				b.say("crun is not installed: not measured")
			} else if ours == nil {
				return errors.New("peer crun is a handler of embedcri: name that before it")
			} else { // the same daemon with another OCI runtime
				b.peers = append(b.peers, &peer{name: "embedcri+crun", handler: "crun", daemon: ours})
			}
		case "containerd":
			d, err := newContainerd(b)
			if err != nil {
				return err
			}
			b.peers = append(b.peers, &peer{name: name, daemon: d})
		default:
			return fmt.Errorf("unknown peer %q", name)
		}
	}
	for _, e := range b.o.endpoints {
		name, addr, _ := strings.Cut(e, "=")
		d := newDaemon(b, name)
		d.socket = strings.TrimPrefix(addr, "unix://")
		b.peers = append(b.peers, &peer{name: name, daemon: d})
	}
	for _, p := range b.peers {
		if err := errors.Join(os.MkdirAll(p.logDir(), 0o755), os.MkdirAll(p.state, 0o711)); err != nil {
			return err
		}
	}
	return nil
}

// remove takes everything down. It goes on after errors.
func (b *bed) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	var errs []error
	for _, p := range b.daemons() {
		errs = append(errs, p.start(ctx), p.removePods(ctx), p.removeImages(ctx), p.remove())
		killPayload(p.parent + "/") // what a failure has left
	}
	if b.registry != nil {
		errs = append(errs, b.registry.Close())
	}
	if b.dir != "" {
		errs = append(errs, b.leftovers(), removeTree(b.state), removeTree(b.dir))
	}
	if b.forward != nil {
		errs = append(errs, os.WriteFile(ipForward, b.forward, 0))
	}
	return errors.Join(errs...)
}

// turns calls f for each peer, n times, beginning with another peer each time.
func (b *bed) turns(ctx context.Context, n int, f func(i int, p *peer) error) error {
	for i := range n {
		for j := range b.peers {
			p := b.peers[(i+j)%len(b.peers)]
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := f(i, p); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
	}
	return nil
}

// daemons are the peers with a daemon of their own: measures of a whole daemon ask each only once.
func (b *bed) daemons() []*peer {
	seen := map[*daemon]bool{}
	return slices.DeleteFunc(slices.Clone(b.peers), func(p *peer) bool {
		old := seen[p.daemon]
		seen[p.daemon] = true
		return old
	})
}

// alone calls f for each daemon while no other one runs, n times in turns.
func (b *bed) alone(ctx context.Context, n int, f func(p *peer) error) error {
	var errs []error
	for _, p := range b.daemons() {
		errs = append(errs, p.stop())
	}
	for range n {
		for _, p := range b.daemons() {
			if err := errors.Join(errs...); err != nil {
				return err
			}
			if err := p.start(ctx); err != nil {
				return err
			}
			if err := f(p); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
			}
			errs = append(errs, p.removePods(context.WithoutCancel(ctx)), p.stop())
		}
	}
	for _, p := range b.daemons() {
		errs = append(errs, p.start(ctx))
	}
	return errors.Join(errs...)
}

// leftovers fails if a process, mount or cgroup of this run is still there. A zombie is not: pid 1 has to reap it.
func (b *bed) leftovers() error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		left := append(mountsBelow(b.dir), mountsBelow(b.state)...)
		for _, p := range processes() {
			if p.pid != os.Getpid() && p.mentions([]string{b.dir, b.state}) {
				left = append(left, fmt.Sprintf("process %d: %s", p.pid, p.cmdline))
			}
		}
		for _, p := range b.daemons() {
			left = append(left, removeCgroups(p.parent)...)
		}
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d things left behind: %s", len(left), strings.Join(left[:min(len(left), 5)], "; "))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// killPayload ends what of the bench's payload runs in a cgroup.
func killPayload(cgroup string) {
	for _, p := range processes() {
		if strings.Contains(p.cgroups, cgroup) && p.payload() {
			_ = unix.Kill(p.pid, unix.SIGKILL)
		}
	}
}

// removeTree removes a directory, unless something is still mounted in it.
func removeTree(dir string) error {
	if m := mountsBelow(dir); len(m) > 0 {
		return fmt.Errorf("%s is not removed, as it has %d mounts, %s for one", dir, len(m), m[0])
	}
	return os.RemoveAll(dir)
}

func mountsBelow(dir string) (points []string) {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && (f[4] == dir || strings.HasPrefix(f[4], dir+"/")) {
			points = append(points, f[4])
		}
	}
	return points
}

// removeCgroups removes the cgroups called path and below it, in all hierarchies, and returns those that have processes.
func removeCgroups(path string) (left []string) {
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + path)
	for _, top := range append(dirs, "/sys/fs/cgroup"+path) {
		var all []string
		_ = filepath.WalkDir(top, func(p string, e os.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				all = append(all, p)
			}
			return nil
		})
		slices.Reverse(all) // children first
		for _, d := range all {
			if err := os.Remove(d); err != nil && !errors.Is(err, os.ErrNotExist) {
				left = append(left, "cgroup "+d)
			}
		}
	}
	return left
}
