// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/pidfd"
)

// Tracer watches processes for this daemon. All methods may be called at any
// time by anyone.
//
// Lock order: Watch.mu before Tracer.mu. Neither is held while anything slow is
// called; system calls under them are map look-ups, pidfd calls and reads of
// /proc, none of which wait for anybody.
type Tracer struct {
	mode     Mode
	clock    clock
	pidns    uint32
	capacity int
	recs     records
	poll     *poller
	count    counters
	// statCodes: /proc/<pid>/stat tells us the status of a zombie.
	statCodes bool

	mu      sync.Mutex
	closed  bool
	watches map[Key]*Watch
	slots   map[Key]proc // every slot in recs, whether watched again or not
	fds     map[int]*Watch
}

// Open takes over what is pinned under Dir, or begins with nothing.
//
// The BPF programs are always loaded anew and attached before those that an
// earlier daemon left are detached: an update of the daemon is an update of the
// programs, without a moment in which an exit goes unseen. Maps are kept if
// their layout and capacity are what they should be, else their records are
// moved, in the same gapless way.
//
// If Dir is not on a BPF file system one is mounted, visible as the daemon's
// mount namespace is: at /sys/fs/bpf if Dir lies below it and nothing is
// mounted there, else on Dir itself. Cleanup unmounts it again.
//
// One daemon at a time: a second Open of a Dir in use is an errdefs.ErrUnavailable.
//
// Where BPF cannot be used Open falls back on waitid(2) and pidfds and Mode
// says why, unless Options.Require.
func Open(o Options) (*Tracer, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("open exit tracer: %w", err)
	}
	t := &Tracer{
		watches: make(map[Key]*Watch),
		slots:   make(map[Key]proc),
		fds:     make(map[int]*Watch),

		statCodes: canReadCodes(),
	}
	var err error
	if t.clock, err = newClock(); err != nil {
		return nil, fmt.Errorf("open exit tracer: %w", err)
	}
	if t.pidns, err = pidNamespace(); err != nil {
		return nil, fmt.Errorf("open exit tracer: %w", err)
	}
	if err := t.openRecords(o); err != nil {
		return nil, fmt.Errorf("open exit tracer in %s: %w", o.Dir, err)
	}
	if t.poll, err = newPoller(); err != nil {
		return nil, errors.Join(fmt.Errorf("open exit tracer: %w", err), t.recs.close())
	}
	go t.loop()
	return t, nil
}

func (t *Tracer) openRecords(o Options) error {
	recs, err := openBPF(o, t.pidns)
	switch {
	case err == nil:
		t.recs, t.mode = recs, Mode{BPF: true}
	case o.Require || errors.Is(err, errInUse) || errdefs.IsInvalidArgument(err):
		return err
	default:
		t.recs, t.mode = newMemory(o.Capacity), Mode{Err: err}
	}
	t.capacity = o.Capacity
	t.mode.ExitInfo = pidfd.HasExitInfo()
	return t.recs.each(func(p proc, s slot) error {
		t.slots[Key(s.Key)] = p
		return nil
	})
}

// Mode says whether BPF is used, and if not, why. It never changes.
func (t *Tracer) Mode() Mode { return t.mode }

// Watch makes sure that the exit of process pid is recorded under k and will be
// heard of. It is idempotent, and the same for a process that was just created
// as for one that a previous daemon watched: in both cases Done is closed, at
// once or later, with the truth.
//
// The process may be dead already as long as nobody has reaped it. ErrFull: no
// slot is free, nothing is watched. ErrGone: there is no such process and no
// record under k. A k that names another process, or a process that has another
// k, is an errdefs.ErrAlreadyExists.
func (t *Tracer) Watch(k Key, pid int) (*Watch, error) {
	w, err := t.watch(k, pid)
	if err != nil {
		return nil, fmt.Errorf("watch process %d as %v: %w", pid, k, err)
	}
	return w, nil
}

func (t *Tracer) watch(k Key, pid int) (*Watch, error) {
	if pid <= 0 {
		return nil, fmt.Errorf("not a pid: %w", errdefs.ErrInvalidArgument)
	}
	w := &Watch{key: k, pid: pid, done: make(chan struct{}), fd: -1}
	w.mu.Lock() // nobody hears of w before it is complete
	defer w.mu.Unlock()

	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil, ErrClosed
	}
	if old, ok := t.watches[k]; ok {
		t.mu.Unlock()
		return old.sameAs(pid)
	}
	p, known := t.slots[k]
	t.watches[k] = w // whoever asks meanwhile gets the same one
	t.mu.Unlock()

	var err error
	if known {
		err = t.resumeLocked(w, p)
	} else {
		err = t.reserveLocked(w)
	}
	if err != nil {
		t.mu.Lock()
		delete(t.watches, k)
		t.mu.Unlock()
		t.dropLocked(w)
		w.bad = err
		w.finishLocked(Exit{}, err)
		return nil, err
	}
	return w, nil
}

// reserveLocked begins to watch a process that has no slot yet. Register first,
// then look whether it has been missed: an exit after the first is recorded in
// the slot, one before it in recent, or the corpse is still there for waitid.
func (t *Tracer) reserveLocked(w *Watch) error {
	p, err := t.openPidfdLocked(w)
	if err != nil {
		return err
	}
	w.proc = p
	s := slot{Key: uint64(w.key), State: stateArmed, ReservedAt: t.clock.bootNow()}
	if err := t.recs.reserve(p, s); errors.Is(err, errExists) {
		return fmt.Errorf("process is watched under another key: %w", errdefs.ErrAlreadyExists)
	} else if errors.Is(err, ErrFull) {
		t.count.full.Add(1)
		return err
	} else if err != nil {
		return err
	}
	t.mu.Lock()
	t.slots[w.key] = p
	t.mu.Unlock()
	return t.startLocked(w)
}

// resumeLocked watches a process whose slot a previous daemon reserved.
func (t *Tracer) resumeLocked(w *Watch, p proc) error {
	if int(p.Pid) != w.pid {
		return fmt.Errorf("the key names process %d: %w", p.Pid, errdefs.ErrAlreadyExists)
	}
	w.proc = p
	now, err := t.openPidfdLocked(w)
	if err == nil && now == p {
		return t.startLocked(w)
	}
	if err != nil && !errors.Is(err, ErrGone) {
		return err
	}
	// It is gone, and if its number is in use again that is not it.
	t.dropLocked(w)
	o := t.observeLocked(w)
	o.dead = true
	t.settleLocked(w, o)
	return nil
}

// startLocked hands w to the loop, and looks at once whether it is over.
func (t *Tracer) startLocked(w *Watch) error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return ErrClosed
	}
	t.fds[w.fd] = w
	t.mu.Unlock()
	if err := t.poll.add(w.fd); err != nil {
		return fmt.Errorf("poll pidfd: %w", err)
	}
	if s, ok := t.recorded(w); ok {
		t.settleLocked(w, observation{dead: true, slot: s})
	}
	return nil
}

// openPidfdLocked opens w.fd and names the process for ever.
func (t *Tracer) openPidfdLocked(w *Watch) (proc, error) {
	fd, err := pidfd.Open(w.pid)
	if err == unix.ESRCH {
		return proc{}, ErrGone
	}
	if err != nil {
		return proc{}, fmt.Errorf("open pidfd: %w", err)
	}
	w.fd = fd
	st, err := readStat(w.pid)
	// If the pidfd's process is there now, /proc showed that very one before.
	if err == unix.ESRCH || err == nil && pidfd.Signal(fd, 0) == unix.ESRCH {
		return proc{}, ErrGone
	}
	if err != nil {
		return proc{}, fmt.Errorf("read start time: %w", err)
	}
	return proc{Pid: uint32(w.pid), Pidns: t.pidns, Start: t.clock.ticks(st.start)}, nil
}

// dropLocked closes w's pidfd.
func (t *Tracer) dropLocked(w *Watch) {
	if w.fd < 0 {
		return
	}
	t.mu.Lock()
	if t.fds[w.fd] == w {
		delete(t.fds, w.fd)
	}
	t.mu.Unlock()
	_ = unix.Close(w.fd) // also leaves the epoll set
	w.fd = -1
}

// Forget deletes the record of k and ends its watch: only when the exit is
// durable elsewhere, or the process does not matter any more. A Done that is
// still open is closed, with ErrForgotten. Forgetting what is not known is fine.
func (t *Tracer) Forget(k Key) error {
	t.mu.Lock()
	w := t.watches[k]
	t.mu.Unlock()
	if w != nil {
		w.mu.Lock() // waits for a Watch(k) that is under way
		defer w.mu.Unlock()
	}

	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return fmt.Errorf("forget %v: %w", k, ErrClosed)
	}
	p, known := t.slots[k]
	t.mu.Unlock()
	if known {
		if err := t.recs.remove(p); err != nil {
			return fmt.Errorf("forget %v: %w", k, err)
		}
	}

	t.mu.Lock()
	if t.slots[k] == p && known {
		delete(t.slots, k)
	}
	if w != nil && t.watches[k] == w {
		delete(t.watches, k)
	}
	t.mu.Unlock()
	if w != nil {
		w.finishLocked(Exit{}, ErrForgotten)
		t.leaveLocked(w)
	}
	return nil
}

// Keys returns the keys of all records, in no order: what an earlier daemon
// left as well as what this one watches.
func (t *Tracer) Keys() []Key {
	t.mu.Lock()
	defer t.mu.Unlock()
	keys := make([]Key, 0, len(t.slots))
	for k := range t.slots {
		keys = append(keys, k)
	}
	return keys
}

// Close lets go: this process' handles are closed, pins stay and the kernel goes
// on recording. Watches whose process lives keep their Done open.
func (t *Tracer) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	fds := t.fds
	t.fds = make(map[int]*Watch)
	t.mu.Unlock()

	err := t.poll.close() // the loop has ended when this returns
	for _, w := range fds {
		w.mu.Lock()
		t.dropLocked(w)
		w.mu.Unlock()
	}
	return errors.Join(err, t.recs.close())
}
