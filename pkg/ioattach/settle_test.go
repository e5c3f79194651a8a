// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// memKeeper is a Keeper that lives as long as the test.
type memKeeper struct {
	mu  sync.Mutex
	fds map[string]int
}

func newMemKeeper(t testing.TB) *memKeeper {
	k := &memKeeper{fds: map[string]int{}}
	t.Cleanup(func() {
		for _, fd := range k.fds {
			_ = unix.Close(fd)
		}
	})
	return k
}

func (k *memKeeper) Put(fds map[string]int) error {
	for name, fd := range fds {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return err
		}
		_ = k.Drop(name)
		k.mu.Lock()
		k.fds[name] = dup
		k.mu.Unlock()
	}
	return nil
}

func (k *memKeeper) Get(name string) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if fd, ok := k.fds[name]; ok {
		return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	}
	return -1, errdefs.ErrNotFound
}

func (k *memKeeper) Open(string, string) (int, error) { return -1, errdefs.ErrUnavailable }

func (k *memKeeper) Drop(names ...string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, name := range names {
		if fd, ok := k.fds[name]; ok {
			_ = unix.Close(fd)
			delete(k.fds, name)
		}
	}
	return nil
}

func (k *memKeeper) Names() ([]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Keys(k.fds)), nil
}

func (k *memKeeper) Renewed() <-chan struct{} { return nil }
func (k *memKeeper) Close() error             { return nil }

// TestSettle leaves a batch in each phase a SIGKILL can leave it in, and in each way, and lets
// the next daemon finish it.
func TestSettle(t *testing.T) {
	const first, data = "tail of ", "a line\nanother line\nand a rest"
	write := func(l *lane, s *source, share func(n int) int, renamed bool) {
		must(t, l.load(mustSplice(t, s, l)))
		g := s.st.logf
		f := frame(l.outBuf(), appendHead(nil, l.at(), s.name), s.st.rec.tail(0), l.data(), laneOut, false, false)
		l.out = f.out
		l.h.nextPos.Store(l.h.n.Load())
		l.h.nextTail.Store(s.st.rec.replace(0, l.data()[f.used:]))
		g.journalLocked(l, g.fd)
		_, err := unix.Write(g.fd, f.out[:share(len(f.out))])
		must(t, err)
		if renamed {
			must(t, os.Rename(g.path, g.path+".1"))
		}
	}
	for _, c := range []struct {
		name string
		die  func(l *lane, s *source)
	}{
		{"nothing staged", func(l *lane, s *source) {
			l.h.owner.Store(s.token)
			l.h.phase.Store(phaseStaging)
		}},
		{"staged", func(l *lane, s *source) {
			l.h.owner.Store(s.token)
			l.h.phase.Store(phaseStaging)
			mustSplice(t, s, l)
		}},
		{"not read", func(l *lane, s *source) {
			l.h.n.Store(uint64(mustSplice(t, s, l)))
			l.h.at.Store(1)
			l.h.phase.Store(phaseReading)
		}},
		{"half read", func(l *lane, s *source) {
			l.h.n.Store(uint64(mustSplice(t, s, l)))
			l.h.phase.Store(phaseReading)
			_, err := unix.Read(l.pipe, l.buf[:7])
			must(t, err)
		}},
		{"read, not noted", func(l *lane, s *source) {
			l.h.n.Store(uint64(mustSplice(t, s, l)))
			l.h.phase.Store(phaseReading)
			_, err := unix.Read(l.pipe, l.buf)
			must(t, err)
		}},
		{"loaded", func(l *lane, s *source) { must(t, l.load(mustSplice(t, s, l))) }},
		{"not written", func(l *lane, s *source) { write(l, s, func(int) int { return 0 }, false) }},
		{"torn", func(l *lane, s *source) { write(l, s, func(n int) int { return n / 3 }, false) }},
		{"torn and rotated", func(l *lane, s *source) { write(l, s, func(n int) int { return n / 3 }, true) }},
		{"written", func(l *lane, s *source) { write(l, s, func(n int) int { return n }, false) }},
		{"written and rotated", func(l *lane, s *source) { write(l, s, func(n int) int { return n }, true) }},
		{"committed", func(l *lane, s *source) {
			write(l, s, func(n int) int { return n }, false)
			l.h.phase.Store(phaseCommitted)
		}},
		{"applied in part", func(l *lane, s *source) {
			write(l, s, func(n int) int { return n }, false)
			l.h.phase.Store(phaseCommitted)
			s.st.rec.setTail(0, l.h.nextTail.Load())
		}},
		{"applied", func(l *lane, s *source) {
			write(l, s, func(n int) int { return n }, false)
			l.commit(s)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, remove := range []bool{false, true} {
				k := newMemKeeper(t)
				n := newNode(t, HubOptions{Keeper: k})
				o := Options{LogPath: n.log("c")}
				st, err := n.hub.Create(n.dir("c"), o)
				must(t, err)
				stdio, err := st.Stdio()
				must(t, err)
				w := dupFile(t, stdio.Stdout)
				must(t, st.Started())
				_, err = w.WriteString(first)
				must(t, err)
				s := st.sources[0]
				await(t, func() bool { return tailOf(s) == first })
				// From here on this test is the reader.
				s.mu.Lock()
				n.hub.remove(s)
				s.mu.Unlock()
				_, err = w.WriteString(data)
				must(t, err)
				l := n.hub.borrow()
				l.h.owner.Store(s.token)
				l.h.pos.Store(0)
				l.h.rest.Store(0)
				c.die(l, s)
				n.hub.lanes <- l
				must(t, st.Close())
				must(t, n.hub.Close())

				h, err := New(HubOptions{Dir: n.hub.opts.Dir, Keeper: k})
				must(t, err)
				if len(h.left) != 1 {
					t.Fatalf("%d unfinished batches", len(h.left))
				}
				if remove {
					must(t, h.Remove(n.dir("c")))
				} else {
					st, err = h.Load(n.dir("c"), o)
					must(t, err)
					_, err = w.WriteString(" and its end\n")
					must(t, err)
					must(t, w.Close())
					drain(t, st, nil)
					want := "tail of a line\nanother line\nand a rest and its end\n"
					if got := output(readLog(t, rotated(t, o.LogPath)...), "stdout"); got != want {
						t.Errorf("got %q, want %q", got, want)
					}
					must(t, st.Remove())
				}
				if len(h.left) != 0 || h.nLane != cap(h.lanes) {
					t.Errorf("%d batches left, %d lanes of %d", len(h.left), h.nLane, cap(h.lanes))
				}
				must(t, h.Close())
				if left, err := k.Names(); err != nil || slices.ContainsFunc(left, func(n string) bool { return !strings.Contains(n, "/hub/lane-") }) {
					t.Errorf("the keeper still has %q", left)
				}
				_ = w.Close()
			}
		})
	}
}

// tailOf is the rest of s once its reader is between two batches.
func tailOf(s *source) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.st.rec.tail(s.idx))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustSplice(t testing.TB, s *source, l *lane) int {
	t.Helper()
	n, err := spliceRetry(s.fd, l.pipe, laneBuf)
	must(t, err)
	return n
}
