// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	recordMagic = 0x656d_6263_7269_0001 // "embcri", layout 1
	recordPage  = 4096
	recordSize  = recordPage + 2*2*maxLine

	flagStdinClosed = 1 << 0
)

// recordHeader is the first page of a record. Native byte order: the file never leaves the
// machine nor outlives a boot.
type recordHeader struct {
	magic atomic.Uint64
	token atomic.Uint64
	flags atomic.Uint64
	_     [5]uint64
	tails [2]atomic.Uint64 // per source: volatileTail | slot<<32 | length of the rest kept there
}

// volatileTail marks a rest that is kept in this process's memory only.
const volatileTail = 1 << 63

// record is what must outlive the daemon about one container's streams. It lives in a shared
// mapping of a small file beside the FIFOs: a store into it costs nothing and survives SIGKILL.
//
// For either source it keeps the unterminated rest of its output, in one of two slots: the
// rest in use is never overwritten (only appended to behind its length), so a crash at any
// instruction leaves either the old rest or the new one.
//
// Only the first page is allocated at once; a slot gets its pages when it is first used, by
// fallocate, because touching an unbacked page of a full tmpfs would be a SIGBUS. If there is
// no room the slot is heap memory: such a rest is lost with the daemon, nothing else is.
type record struct {
	path  string
	h     *recordHeader
	mem   []byte
	slots [4][]byte
}

// newRecord creates the record file at path; it must not exist.
func newRecord(path string) (*record, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "create", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, recordSize); err != nil {
		return nil, &os.PathError{Op: "truncate", Path: path, Err: err}
	}
	if err := unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, recordPage); err != nil {
		return nil, &os.PathError{Op: "fallocate", Path: path, Err: err}
	}
	r, err := mapRecord(fd, path)
	if err != nil {
		return nil, err
	}
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, errors.Join(err, r.close())
	}
	r.h.token.Store(binary.NativeEndian.Uint64(b[:]) &^ 1)
	r.h.magic.Store(recordMagic)
	return r, nil
}

// openRecord opens the record an earlier daemon made.
func openRecord(path string) (*record, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Size != recordSize {
		return nil, fmt.Errorf("stream record %s has %d bytes, want %d", path, st.Size, recordSize)
	}
	r, err := mapRecord(fd, path)
	if err != nil {
		return nil, err
	}
	for src := range r.h.tails {
		if r.h.tails[src].Load()&volatileTail != 0 {
			r.h.tails[src].Store(0)
		}
	}
	if m := r.h.magic.Load(); m != recordMagic {
		return nil, errors.Join(fmt.Errorf("stream record %s has magic %#x, want %#x", path, m, uint64(recordMagic)), r.close())
	}
	return r, nil
}

func mapRecord(fd int, path string) (*record, error) {
	mem, err := unix.Mmap(fd, 0, recordSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map stream record: %w", err)
	}
	return &record{path: path, h: (*recordHeader)(unsafe.Pointer(&mem[0])), mem: mem}, nil
}

// heapRecord is a record nothing needs to outlive, for streams that end with the daemon.
func heapRecord() *record { return &record{h: new(recordHeader)} }

func (r *record) close() error {
	if r.mem == nil {
		return nil
	}
	mem := r.mem
	r.mem, r.h = nil, new(recordHeader)
	return unix.Munmap(mem)
}

// slot returns the memory of slot n of src, and volatileTail if it is not shared memory.
func (r *record) slot(src, n int) ([]byte, uint64) {
	i := 2*src + n
	at := recordPage + i*maxLine
	if r.slots[i] == nil {
		if r.back(int64(at)) == nil {
			r.slots[i] = r.mem[at : at+maxLine : at+maxLine]
		} else {
			r.slots[i] = make([]byte, maxLine)
		}
	}
	if &r.slots[i][0] != &r.mem[at] {
		return r.slots[i], volatileTail
	}
	return r.slots[i], 0
}

func (r *record) back(at int64) error {
	fd, err := unix.Open(r.path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, at, maxLine)
}

func splitTail(v uint64) (slot, n int) { return int(v>>32) & 1, min(int(uint32(v)), maxLine) }

// tail is the rest of source src: bytes its container wrote that end no line yet.
func (r *record) tail(src int) []byte {
	slot, n := splitTail(r.h.tails[src].Load())
	if n == 0 {
		return nil
	}
	mem, _ := r.slot(src, slot)
	return mem[:n]
}

// extend writes more behind the rest of src and returns the value that makes it count, to be
// given to setTail once the batch is committed.
func (r *record) extend(src int, more []byte) uint64 {
	slot, n := splitTail(r.h.tails[src].Load())
	mem, volatile := r.slot(src, slot)
	n += copy(mem[n:], more)
	return volatile | uint64(slot)<<32 | uint64(n)
}

// replace writes a new rest into the slot not in use, likewise.
func (r *record) replace(src int, rest []byte) uint64 {
	slot, _ := splitTail(r.h.tails[src].Load())
	if len(rest) == 0 {
		return uint64(slot) << 32
	}
	slot = 1 - slot
	mem, volatile := r.slot(src, slot)
	return volatile | uint64(slot)<<32 | uint64(copy(mem, rest))
}

func (r *record) setTail(src int, v uint64) { r.h.tails[src].Store(v) }

func (r *record) token(src int) uint64 { return r.h.token.Load() | uint64(src) }

func (r *record) stdinClosed() bool { return r.h.flags.Load()&flagStdinClosed != 0 }

func (r *record) closeStdin() { r.h.flags.Or(flagStdinClosed) }
