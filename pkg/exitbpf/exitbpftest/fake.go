// SPDX-License-Identifier: Apache-2.0

// Package exitbpftest has a tracer without a kernel behind it, for tests of what
// is built on exitbpf, and the suite that holds it to the same behaviour as the
// real one.
package exitbpftest

import (
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/pkg/exitbpf"
)

// Fake is a tracer over processes that only exist in it: Start makes one, Die
// ends it. What *exitbpf.Tracer guarantees, it does too; Conformance says so.
// A Fake is the pinned records and the kernel in one; Restart is a new daemon.
type Fake struct {
	mu       sync.Mutex
	capacity int
	closed   bool
	nextPid  int
	procs    map[int]*process // not reaped
	slots    map[exitbpf.Key]*fakeSlot
	watches  map[exitbpf.Key]*fakeWatch

	// Hook, if set, is called by Watch before anything else; its error is Watch's.
	Hook func(k exitbpf.Key, pid int) error
	// OnSignal, if set, is told of signals sent through a Watch. Without it any
	// signal but 0 ends the process at once.
	OnSignal func(pid int, sig unix.Signal)
}

type process struct {
	key  exitbpf.Key // whose slot
	held bool        // has a slot
	dead *exitbpf.Exit
}

type fakeSlot struct {
	pid  int
	exit *exitbpf.Exit
	lost bool
}

type fakeWatch struct {
	w   *exitbpf.Watch
	end func(exitbpf.Exit, error)
}

// New returns a fake with room for so many records; 0: exitbpf.DefaultCapacity.
func New(capacity int) *Fake {
	if capacity == 0 {
		capacity = exitbpf.DefaultCapacity
	}
	return &Fake{
		capacity: capacity,
		nextPid:  1000,
		procs:    make(map[int]*process),
		slots:    make(map[exitbpf.Key]*fakeSlot),
		watches:  make(map[exitbpf.Key]*fakeWatch),
	}
}

// Start makes a process and returns its pid.
func (f *Fake) Start() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nextPid++
	f.procs[f.nextPid] = &process{}
	return f.nextPid
}

// Die ends a process; e.Status and, if wanted, the time, OOM and Killer are the
// caller's. A process that nobody watches stays a zombie, as a child would.
func (f *Fake) Die(pid int, e exitbpf.Exit) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dieLocked(pid, e)
}

func (f *Fake) dieLocked(pid int, e exitbpf.Exit) {
	p := f.procs[pid]
	if p == nil || p.dead != nil {
		return
	}
	e.Pid = pid
	if e.At.IsZero() {
		e.At = time.Now()
	}
	if e.Source == exitbpf.SourceNone {
		e.Source = exitbpf.SourceBPF
	}
	p.dead = &e
	if !p.held {
		return
	}
	e.Key = p.key
	f.slots[p.key].exit = &e
	if w := f.watches[p.key]; w != nil && !f.closed {
		delete(f.procs, pid) // reaped
		w.end(e, nil)
	}
}

// Lose makes a process disappear without a trace, as a reboot would.
func (f *Fake) Lose(pid int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.procs[pid]
	delete(f.procs, pid)
	if p == nil || !p.held || p.dead != nil {
		return
	}
	f.slots[p.key].lost = true
	if w := f.watches[p.key]; w != nil && !f.closed {
		w.end(exitbpf.Exit{}, exitbpf.ErrLost)
	}
}

// Restart returns the tracer of the next daemon: same processes, same records.
// f should be closed, as its daemon is gone.
func (f *Fake) Restart() *Fake {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return &Fake{
		capacity: f.capacity,
		nextPid:  f.nextPid,
		procs:    f.procs,
		slots:    f.slots,
		watches:  make(map[exitbpf.Key]*fakeWatch),
		Hook:     f.Hook,
		OnSignal: f.OnSignal,
	}
}

// Watch is exitbpf.Tracer.Watch.
func (f *Fake) Watch(k exitbpf.Key, pid int) (*exitbpf.Watch, error) {
	w, err := f.watch(k, pid)
	if err != nil {
		return nil, fmt.Errorf("watch process %d as %v: %w", pid, k, err)
	}
	return w, nil
}

func (f *Fake) watch(k exitbpf.Key, pid int) (*exitbpf.Watch, error) {
	if pid <= 0 {
		return nil, fmt.Errorf("not a pid: %w", errdefs.ErrInvalidArgument)
	}
	if f.Hook != nil {
		if err := f.Hook(k, pid); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, exitbpf.ErrClosed
	}
	s := f.slots[k]
	if s != nil && s.pid != pid {
		return nil, fmt.Errorf("the key names process %d: %w", s.pid, errdefs.ErrAlreadyExists)
	}
	if w := f.watches[k]; w != nil {
		return w.w, nil
	}
	p := f.procs[pid]
	if s == nil {
		switch {
		case p == nil:
			return nil, exitbpf.ErrGone
		case p.held:
			return nil, fmt.Errorf("process is watched under another key: %w", errdefs.ErrAlreadyExists)
		case len(f.slots) >= f.capacity:
			return nil, exitbpf.ErrFull
		}
		p.key, p.held = k, true
		s = &fakeSlot{pid: pid}
		f.slots[k] = s
		if p.dead != nil {
			e := *p.dead
			e.Key, e.Source = k, exitbpf.SourceRecent
			s.exit = &e
		}
	}
	w := &fakeWatch{}
	w.w, w.end = exitbpf.NewWatch(k, pid, func(sig unix.Signal) error { f.signal(pid, sig); return nil })
	f.watches[k] = w
	switch {
	case s.exit != nil:
		delete(f.procs, pid)
		w.end(*s.exit, nil)
	case s.lost || p == nil:
		w.end(exitbpf.Exit{}, exitbpf.ErrLost)
	}
	return w.w, nil
}

// signal runs in the background: Watch.Signal holds the watch's lock.
func (f *Fake) signal(pid int, sig unix.Signal) {
	if f.OnSignal != nil {
		go f.OnSignal(pid, sig)
		return
	}
	if sig != 0 {
		go f.Die(pid, exitbpf.Exit{Status: unix.WaitStatus(sig), Killer: &exitbpf.Sender{Signal: sig, Comm: "embedcri", At: time.Now()}})
	}
}

// Forget is exitbpf.Tracer.Forget.
func (f *Fake) Forget(k exitbpf.Key) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return fmt.Errorf("forget %v: %w", k, exitbpf.ErrClosed)
	}
	if s := f.slots[k]; s != nil {
		if p := f.procs[s.pid]; p != nil && p.held && p.key == k {
			p.held = false
		}
	}
	delete(f.slots, k)
	if w := f.watches[k]; w != nil {
		delete(f.watches, k)
		w.end(exitbpf.Exit{}, exitbpf.ErrForgotten)
	}
	return nil
}

// Keys is exitbpf.Tracer.Keys.
func (f *Fake) Keys() []exitbpf.Key {
	f.mu.Lock()
	defer f.mu.Unlock()
	keys := make([]exitbpf.Key, 0, len(f.slots))
	for k := range f.slots {
		keys = append(keys, k)
	}
	return keys
}

// Mode is exitbpf.Tracer.Mode; always with BPF.
func (f *Fake) Mode() exitbpf.Mode { return exitbpf.Mode{BPF: true} }

// OOMKills is exitbpf.Tracer.OOMKills; always none.
func (f *Fake) OOMKills(uint64) (exitbpf.OOMs, error) { return exitbpf.OOMs{}, nil }

// Close is exitbpf.Tracer.Close.
func (f *Fake) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return nil
}
