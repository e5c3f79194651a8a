// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	laneMagic  = 0x656d_6263_7269_1001
	lanePage   = 4096
	laneBuf    = 256 << 10 // most bytes one batch takes
	laneOut    = 512 << 10 // most log bytes one write(2) carries
	lanePipe   = 1 << 20   // slots for laneBuf bytes even if the writer fills pages badly
	laneFileSz = lanePage + laneBuf
)

// The phases of a batch. Each is one atomic store; the comment says what a daemon that finds it
// after a SIGKILL knows, and settle does the rest.
const (
	phaseIdle      = iota // nothing under way
	phaseStaging          // owner's bytes, if any, are in the pipe; none has been read
	phaseReading          // n bytes were staged: those no longer in the pipe are in buf
	phaseLoaded           // buf[:n] is complete; buf[:pos] has been dealt with
	phaseWriting          // outLen bytes are being appended to log file logDev:logIno from logOff on
	phaseCommitted        // they are there; nextPos and nextTail take effect
)

// laneHeader is the first page of a lane's file.
type laneHeader struct {
	magic, phase, owner atomic.Uint64
	n, pos              atomic.Uint64 // bytes in buf, of which dealt with
	at                  atomic.Uint64 // time stamp of the batch, nanoseconds since 1970
	rest                atomic.Uint64 // 1: no data, the stream's tail is being made its last line
	logDev, logIno      atomic.Uint64
	logOff, outLen      atomic.Uint64
	nextPos, nextTail   atomic.Uint64
}

// lane is what one batch passes through on its way from a container's pipe into its log, made
// so that a SIGKILL between any two instructions loses nothing and doubles nothing:
//
//	FIFO --splice--> staging pipe --read--> buf (shared memory) --write--> log file
//
// The kernel moves bytes from the FIFO to the staging pipe under both pipes' locks, so they are
// always in exactly one of them; nobody else writes to the staging pipe, so after a crash its
// fill level (FIONREAD) tells exactly how much of a batch had already been read into buf, which
// survives; and the log file's size tells how much of a journaled append had happened. A pty
// cannot be spliced in place, but its splice_read goes through pages that become pipe buffers
// in the same call, so the same holds.
//
// There are a few lanes in a daemon, not one a stream: a batch borrows one and leaves it empty.
type lane struct {
	name string // its file's base name, also the keeper's name for the pipe
	pipe int    // staging pipe, a FIFO opened O_RDWR|O_NONBLOCK
	h    *laneHeader
	mem  []byte
	buf  []byte
	out  []byte // not shared: it can be built again
}

// openLane creates dir/name and its staging pipe or opens what is there. kept is the staging
// pipe an earlier daemon used, -1 if it is lost.
func openLane(dir, name string, kept int) (*lane, error) {
	path := dir + "/" + name
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	// All of it now: on a full tmpfs a later store would be a SIGBUS.
	if err := unix.Fallocate(fd, 0, 0, laneFileSz); err != nil {
		return nil, &os.PathError{Op: "fallocate", Path: path, Err: err}
	}
	mem, err := unix.Mmap(fd, 0, laneFileSz, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map lane %s: %w", path, err)
	}
	l := &lane{name: name, pipe: kept, mem: mem, buf: mem[lanePage:], h: (*laneHeader)(unsafe.Pointer(&mem[0]))}
	if l.h.magic.Load() != laneMagic {
		*l.h = laneHeader{}
		l.h.magic.Store(laneMagic)
	}
	if kept < 0 {
		if l.pipe, err = openFIFO(path+".pipe", unix.O_RDWR|unix.O_NONBLOCK, -1, -1); err != nil {
			return nil, errors.Join(err, unix.Munmap(mem))
		}
		// What was in a lost staging pipe is gone, and nobody can tell how much of it had been read.
		if p := l.h.phase.Load(); p == phaseStaging || p == phaseReading {
			l.h.phase.Store(phaseIdle)
		}
	}
	growPipe(l.pipe, lanePipe)
	if l.h.phase.Load() == phaseIdle {
		l.giveUp()
	}
	return l, nil
}

func (l *lane) close() error {
	mem := l.mem
	l.mem, l.buf, l.h = nil, nil, nil
	return errors.Join(unix.Munmap(mem), unix.Close(l.pipe))
}

// owner says whose batch an earlier daemon left here, if any.
func (l *lane) owner() (token uint64, busy bool) {
	return l.h.owner.Load(), l.h.phase.Load() != phaseIdle
}

// fill takes what fd has, up to laneBuf bytes. It returns 0, nil at the end of the stream and EAGAIN
// when there is nothing now.
func (l *lane) fill(token uint64, fd int) (int, error) {
	l.h.owner.Store(token)
	l.h.pos.Store(0)
	l.h.n.Store(0)
	l.h.rest.Store(0)
	l.h.phase.Store(phaseStaging)
	n, err := spliceRetry(fd, l.pipe, laneBuf)
	if n <= 0 || err != nil {
		l.finish()
		return 0, err
	}
	if err := l.load(n); err != nil {
		l.giveUp()
		return 0, err
	}
	return n, nil
}

// load reads the n staged bytes into buf.
func (l *lane) load(n int) error {
	l.h.at.Store(uint64(time.Now().UnixNano()))
	l.h.n.Store(uint64(n))
	l.h.phase.Store(phaseReading)
	return l.loadRest(0)
}

// loadRest goes on from the first have bytes that buf holds already.
func (l *lane) loadRest(have int) error {
	for n := int(l.h.n.Load()); have < n; {
		k, err := unix.Read(l.pipe, l.buf[have:n])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || k == 0 {
			return fmt.Errorf("read staging pipe of %s at %d of %d: %w", l.name, have, n, errors.Join(err))
		}
		have += k
	}
	l.h.phase.Store(phaseLoaded)
	return nil
}

// beginRest starts a batch without data, for the last unterminated line.
func (l *lane) beginRest(token uint64) {
	l.h.owner.Store(token)
	l.h.at.Store(uint64(time.Now().UnixNano()))
	l.h.n.Store(0)
	l.h.pos.Store(0)
	l.h.nextPos.Store(0)
	l.h.rest.Store(1)
}

// outBuf is the empty output buffer.
func (l *lane) outBuf() []byte {
	if l.out == nil {
		l.out = make([]byte, 0, laneOut)
	}
	return l.out[:0]
}

func (l *lane) at() time.Time { return time.Unix(0, int64(l.h.at.Load())) }

// data is the part of the batch still to be dealt with.
func (l *lane) data() []byte { return l.buf[l.h.pos.Load():l.h.n.Load()] }

// commit makes nextPos and nextTail effective. All of it may be done twice.
func (l *lane) commit(s *source) {
	l.h.phase.Store(phaseCommitted)
	s.st.rec.setTail(s.idx, l.h.nextTail.Load())
	l.h.pos.Store(l.h.nextPos.Load())
	l.h.phase.Store(phaseLoaded)
}

// giveUp ends a batch whatever became of it. Of one that is given up, nothing may stay to be taken for the next one's.
func (l *lane) giveUp() {
	if n, err := unix.IoctlGetInt(l.pipe, unix.TIOCINQ); err != nil || n > 0 {
		for {
			if n, err := readRetry(l.pipe, l.buf); n <= 0 || err != nil {
				break
			}
		}
	}
	l.h.phase.Store(phaseIdle)
}

// finish ends a batch that went well: its staging pipe is empty.
func (l *lane) finish() { l.h.phase.Store(phaseIdle) }

func spliceRetry(from, to, n int) (int, error) {
	for {
		k, err := unix.Splice(from, nil, to, nil, n, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if !errors.Is(err, unix.EINTR) {
			return int(k), err
		}
	}
}
