// SPDX-License-Identifier: Apache-2.0

package task

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// Reaper reaps the orphans that land on the daemon because it is a child subreaper: what a container without a pid namespace of
// its own leaves behind, what a runtime or a CNI plug-in that was killed had started. Until they are reaped they keep their
// cgroups busy.
//
// It never takes a process that somebody waits for. Three kinds of children are told apart:
//   - watched processes are the exit tracer's (Owned says which they are);
//   - in a container's cgroup (one named after a 64-digit id, and not the daemon's own): an orphan, unless the runtime is just launching it: then nobody watches it yet. So a zombie is left
//     alone until every launch that was under way when it was first seen has ended;
//   - elsewhere: most likely started by os/exec, which waits for its own. Only what stays a zombie for longer than strayAge is
//     nobody's.
type Reaper struct {
	owned func(pid int) bool
	own   string // this process' cgroups

	mu       sync.Mutex
	next     uint64              // number of the next launch
	launches map[uint64]struct{} // under way
	seen     map[int]zombie

	wake chan struct{}
	stop chan struct{}
	done chan struct{}
}

type zombie struct {
	launch uint64 // launches with lower numbers may be about to own it
	since  time.Time
}

const (
	strayAge   = 10 * time.Second
	sweepEvery = 30 * time.Second // SIGCHLD does it; this is for signals that were merged
)

// containerCgroup is how a container's cgroup is named, with either driver, and any below it.
var containerCgroup = regexp.MustCompile(`/(cri-embedcri-)?[0-9a-f]{64}(\.scope)?(/.*)?(\n|$)`)

// NewReaper makes this process a child subreaper (prctl(2)) and starts to reap. owned tells whether the tracer watches a pid.
func NewReaper(owned func(pid int) bool) (*Reaper, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become child subreaper: %w", err)
	}
	r := &Reaper{
		owned: owned, own: cgroupOf(os.Getpid()),
		launches: map[uint64]struct{}{}, seen: map[int]zombie{},
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	go r.loop()
	return r, nil
}

// Close ends the reaping.
func (r *Reaper) Close() {
	close(r.stop)
	<-r.done
}

// Launch says that a process is being launched which nobody watches yet. The returned function ends that.
func (r *Reaper) Launch() (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.next
	r.next++
	r.launches[n] = struct{}{}
	return func() {
		r.mu.Lock()
		delete(r.launches, n)
		r.mu.Unlock()
	}
}

// Scan looks for orphans now; it does not wait for the result.
func (r *Reaper) Scan() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *Reaper) loop() {
	defer close(r.done)
	chld := make(chan os.Signal, 1)
	signal.Notify(chld, unix.SIGCHLD)
	defer signal.Stop(chld)
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		var again <-chan time.Time
		if r.scan() {
			again = time.After(50 * time.Millisecond) // somebody is to be reaped as soon as a launch has ended
		}
		select {
		case <-chld:
		case <-r.wake:
		case <-sweep.C:
		case <-again:
		case <-r.stop:
			return
		}
	}
}

// scan reaps what it may. It returns true if an orphan has to wait for a launch.
func (r *Reaper) scan() (waiting bool) {
	now := time.Now()
	found := map[int]zombie{}
	for _, pid := range zombies() {
		if r.owned(pid) {
			continue
		}
		z, known := r.seen[pid]
		if !known {
			r.mu.Lock()
			z = zombie{launch: r.next, since: now}
			r.mu.Unlock()
		}
		cg := cgroupOf(pid)
		inContainer := cg != r.own && containerCgroup.MatchString(cg)
		switch {
		case inContainer && !r.launching(z.launch) && !r.owned(pid), // looked at again: it may have become owned
			!inContainer && now.Sub(z.since) > strayAge:
			r.reap(pid)
		default:
			found[pid] = z
			waiting = waiting || inContainer
		}
	}
	r.seen = found
	return waiting
}

// launching tells whether a launch with a number below n is under way.
func (r *Reaper) launching(n uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for l := range r.launches {
		if l < n {
			return true
		}
	}
	return false
}

func (r *Reaper) reap(pid int) {
	var ws unix.WaitStatus
	if got, err := unix.Wait4(pid, &ws, unix.WNOHANG, nil); err == nil && got == pid {
		klog.Background().V(4).Info("reaped an orphan", "pid", pid)
	}
}

// zombies returns this process' children that have ended. The kernel lists children by the thread that has them; orphans go to
// the first living one (find_alive_thread in kernel/exit.c), os/exec's to whichever forked.
func zombies() []int {
	if !anyChildDead() {
		return nil
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return nil
	}
	var pids []int
	for _, task := range tasks {
		b, err := os.ReadFile("/proc/self/task/" + task.Name() + "/children")
		if err != nil {
			continue
		}
		for f := range bytes.FieldsSeq(b) {
			if pid, err := strconv.Atoi(string(f)); err == nil && isZombie(pid) {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// anyChildDead asks without reaping, which costs one system call in the common case that there is nobody.
func anyChildDead() bool {
	var info [128]byte // siginfo_t
	err := unix.Waitid(unix.P_ALL, 0, (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return err == nil && *(*int32)(unsafe.Pointer(&info)) == int32(unix.SIGCHLD)
}

func isZombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	i := bytes.LastIndexByte(b, ')') // the name may hold anything
	return i >= 0 && i+2 < len(b) && b[i+2] == 'Z'
}

func cgroupOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return ""
	}
	return string(b)
}
