// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// HubOptions configure a Hub. Only Dir must be set.
type HubOptions struct {
	// Dir is the hub's own directory on a tmpfs such as /run; it is made if missing and used by one
	// daemon at a time. It holds the lanes and, for a moment each, console sockets.
	Dir string
	// Keeper holds file descriptors while there is no daemon. Without one, streams live as long as
	// the daemon: logs of containers that exit in its absence lose their end, ptys hang up.
	// The hub uses it but does not close it.
	Keeper Keeper
	// Readers is the number of threads that move output; default 4. A write to a log on a hung disk
	// holds up one of them, which is why it does not follow the number of CPUs.
	Readers int
	// PipeSize is the capacity asked for each container pipe, in bytes; default 1 MiB. The kernel
	// may grant less. It is what a container can write while the daemon is away before it waits.
	PipeSize int
	// DrainIdle is how long a pipe that somebody still holds after the process died must have been
	// silent to count as drained; default 200 ms.
	DrainIdle time.Duration
	// DrainMax is the most a drain takes, whatever is still written; default 2 s.
	DrainMax time.Duration
	// ClientBuffer is how many bytes an attach client may lag behind before it is cut; default 4 MiB.
	ClientBuffer int
	// Logger gets what nobody else can be told; the zero value is klog's.
	Logger klog.Logger
}

func (o *HubOptions) setDefaults() {
	setDefault(&o.Readers, 4)
	setDefault(&o.PipeSize, 1<<20)
	setDefault(&o.DrainIdle, 200*time.Millisecond)
	setDefault(&o.DrainMax, 2*time.Second)
	setDefault(&o.ClientBuffer, 4<<20)
	if o.Logger.GetSink() == nil {
		o.Logger = klog.Background()
	}
}

func setDefault[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Hub moves the output of all containers of one daemon: one epoll set, a few readers, a few
// lanes. It is safe for concurrent use.
type Hub struct {
	opts  HubOptions
	log   klog.Logger
	stats counters

	lock  *os.File // flock on Dir: one daemon at a time
	epfd  int
	wake  int // eventfd: readable once the hub closes
	timer int // timerfd: the pace of busy sources, see pace.go
	wg    sync.WaitGroup
	done  chan struct{}

	lanes chan *lane // free ones
	nLane int        // how many this daemon works with; guarded by mu

	mu      sync.RWMutex
	closed  bool
	nextKey uint64
	sources map[uint64]*source // in the epoll set
	left    []*lane            // batches of an earlier daemon, until their stream is loaded

	dropWake chan struct{}
	heldMu   sync.Mutex
	held     map[string]int // what the keeper has been given, by name: to give it again
	drops    []string       // what it need not hold any more

	paceMu sync.Mutex
	paced  pacedSources
}

// counters are what Stats reports.
type counters struct {
	droppedBytes, droppedLines, logErrors, cutClients atomic.Uint64
}

// Stats are a hub's sums since it was made.
type Stats struct {
	DroppedBytes uint64 // log bytes (with heads) a failing log file did not take
	DroppedLines uint64 // log lines, likewise
	LogErrors    uint64 // failed writes
	CutClients   uint64 // attach clients cut because they could not keep up
	Streams      int    // pipes and ptys being read
}

// Stats returns the hub's counters.
func (h *Hub) Stats() Stats {
	h.mu.RLock()
	n := len(h.sources)
	h.mu.RUnlock()
	return Stats{
		DroppedBytes: h.stats.droppedBytes.Load(), DroppedLines: h.stats.droppedLines.Load(),
		LogErrors: h.stats.logErrors.Load(), CutClients: h.stats.cutClients.Load(), Streams: n,
	}
}

// New starts a hub in o.Dir. Batches an earlier daemon left half done are kept until Load is
// called for their streams.
func New(o HubOptions) (_ *Hub, err error) {
	o.setDefaults()
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	h := &Hub{opts: o, log: o.Logger, epfd: -1, wake: -1, timer: -1, done: make(chan struct{}),
		sources: map[uint64]*source{}, held: map[string]int{}, dropWake: make(chan struct{}, 1), nextKey: firstKey}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.release())
		}
	}()
	if h.lock, err = lockDir(o.Dir); err != nil {
		return nil, err
	}
	if h.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if h.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	if h.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	if err := h.control(unix.EPOLL_CTL_ADD, h.wake, unix.EPOLLIN, wakeKey); err != nil {
		return nil, err
	}
	if err := h.control(unix.EPOLL_CTL_ADD, h.timer, unix.EPOLLIN|unix.EPOLLET, timerKey); err != nil {
		return nil, err
	}
	if err := removeConsoleSockets(o.Dir); err != nil {
		return nil, err
	}
	if err := h.openLanes(); err != nil {
		return nil, err
	}
	h.DropStale()
	if o.Keeper != nil {
		h.wg.Go(h.follow)
	}
	for range o.Readers {
		h.wg.Go(h.read)
	}
	return h, nil
}

// lockDir keeps a second daemon out of dir.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("stream directory %s is in use: %w", dir, err), f.Close())
	}
	return f, nil
}

// Close stops moving output and lets go of everything the hub owns; streams should be closed
// first. Nothing is lost: what containers write stays in their pipes, and a Hub made in the
// same Dir goes on. A reader held up by a hung disk delays it.
func (h *Hub) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	h.mu.Unlock()
	close(h.done)
	if _, err := unix.Write(h.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		return os.NewSyscallError("wake hub readers", err)
	}
	h.wg.Wait()
	return h.release()
}

// release closes what New opened.
func (h *Hub) release() error {
	var errs []error
	for range h.nLane {
		errs = append(errs, (<-h.lanes).close())
	}
	for _, l := range h.left {
		errs = append(errs, l.close())
	}
	for _, fd := range []int{h.epfd, h.wake, h.timer} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	if h.lock != nil {
		errs = append(errs, h.lock.Close())
	}
	return errors.Join(errs...)
}
