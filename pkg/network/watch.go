// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"k8s.io/klog/v2"
)

// reload reads ConfDir and puts what it found to use.
func (n *Network) reload(ctx context.Context) {
	c := loadConf(n.opts.ConfDir, n.opts.MaxNetworks)
	// A broken file must not switch pods to another network without a word: the built-in one is for
	// a node where nobody has configured anything.
	if c.files == 0 && len(c.broken) == 0 && n.opts.Bridge.Enabled {
		f := n.features()
		if list, err := n.opts.Bridge.list(f); err != nil {
			c.broken = append(c.broken, err)
		} else {
			c.networks = []netConf{{list: list, masquerade: f.filter == nftables}}
		}
	}
	old := n.conf.Swap(c)
	if old == nil || !sameConf(old, c) {
		names := make([]string, 0, len(c.networks))
		for _, net := range c.networks {
			names = append(names, net.list.Name)
		}
		klog.FromContext(ctx).Info("Network configuration read", "dir", n.opts.ConfDir, "networks", names, "broken", c.broken)
		n.health.unknown(c)
	}
	select {
	case n.recheck <- struct{}{}:
	default:
	}
}

func sameConf(a, b *confSet) bool {
	if len(a.networks) != len(b.networks) || len(a.broken) != len(b.broken) {
		return false
	}
	for i := range a.networks {
		if a.networks[i].file != b.networks[i].file || string(a.networks[i].list.Bytes) != string(b.networks[i].list.Bytes) {
			return false
		}
	}
	for i := range a.broken {
		if a.broken[i].Error() != b.broken[i].Error() {
			return false
		}
	}
	return true
}

// watch reloads whenever ConfDir changes, until ctx ends. ConfDir need not exist, and may be
// removed, renamed or replaced at any time: its nearest existing ancestor is watched too. Whatever
// the notifications miss, the poll finds.
func (n *Network) watch(ctx context.Context) {
	w := newDirWatch(ctx, n.opts.ConfDir)
	defer w.close()
	poll := time.NewTicker(n.opts.PollInterval)
	defer poll.Stop()
	for {
		// First watch, then read: what happens in between is announced.
		w.arm()
		n.reload(ctx)
		if !w.wait(ctx, poll.C) {
			return
		}
	}
}

// dirWatch watches a directory and what leads there.
type dirWatch struct {
	dir string
	fs  *fsnotify.Watcher // nil: there are none to be had, e.g. no inotify instance is left
	// armed are the watched directories as they were: a path may have come to mean another
	// directory, of which inotify(7) would not tell.
	armed map[string]os.FileInfo
}

func newDirWatch(ctx context.Context, dir string) *dirWatch {
	fs, err := fsnotify.NewWatcher()
	if err != nil {
		klog.FromContext(ctx).Error(err, "Network configuration is only polled", "dir", dir)
		fs = nil
	}
	return &dirWatch{dir: filepath.Clean(dir), fs: fs, armed: map[string]os.FileInfo{}}
}

// arm watches the directory, if it is there, and its nearest existing ancestor.
func (w *dirWatch) arm() {
	if w.fs == nil {
		return
	}
	// What was made between the look and the watch was not announced: look again until there is
	// nothing new. Should that not settle, the poll is left.
	for range 10 {
		if !w.armOnce() {
			return
		}
	}
}

func (w *dirWatch) armOnce() (changed bool) {
	want := w.targets()
	// A watch ends with its directory, and the next directory of that name may well get the same
	// inode number: ask what is still watched.
	watched := w.fs.WatchList()
	for p, was := range w.armed {
		if is, ok := want[p]; !ok || !os.SameFile(was, is) || !slices.Contains(watched, p) {
			_ = w.fs.Remove(p)
			delete(w.armed, p)
		}
	}
	for p, st := range want {
		if _, ok := w.armed[p]; ok {
			continue
		}
		if err := w.fs.Add(p); err == nil {
			w.armed[p] = st
			changed = true
		}
	}
	return changed
}

// targets are the directories to watch, as they are now.
func (w *dirWatch) targets() map[string]os.FileInfo {
	out := map[string]os.FileInfo{}
	if st, err := os.Stat(w.dir); err == nil {
		out[w.dir] = st
	}
	for p := filepath.Dir(w.dir); ; p = filepath.Dir(p) {
		if st, err := os.Stat(p); err == nil {
			out[p] = st
			return out
		}
		if p == filepath.Dir(p) {
			return out
		}
	}
}

// wait returns when it is time to look again, false if ctx has ended.
func (w *dirWatch) wait(ctx context.Context, poll <-chan time.Time) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-poll:
			return true
		case e := <-w.events():
			if w.concerns(e.Name) {
				return true
			}
		case <-w.errors(): // the queue has overflown, say
			return true
		}
	}
}

// concerns tells whether a change at path may change what is in the directory: the path leads there, or lies in it. Of what else
// goes on in the ancestor that is watched, which may be /etc or a place for logs, nothing does.
func (w *dirWatch) concerns(path string) bool {
	path = filepath.Clean(path)
	return path == w.dir || strings.HasPrefix(path, w.dir+"/") || strings.HasPrefix(w.dir, strings.TrimSuffix(path, "/")+"/")
}

// events and errors are what the watcher has to say. Without one it is nothing.
func (w *dirWatch) events() <-chan fsnotify.Event {
	if w.fs == nil {
		return nil
	}
	return w.fs.Events
}

func (w *dirWatch) errors() <-chan error {
	if w.fs == nil {
		return nil
	}
	return w.fs.Errors
}

func (w *dirWatch) close() {
	if w.fs != nil {
		_ = w.fs.Close()
	}
}
