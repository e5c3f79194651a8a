// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxZstdWindow is the largest zstd window that a layer may ask for, in bytes. It is memory of this
// process, per layer being unpacked; the zstd tool itself refuses more than this by default.
const maxZstdWindow = 128 << 20

// decompress recognises gzip, zstd and plain tar by their first bytes: media types are often wrong.
// It decompresses in this process; containerd would run unpigz if it finds one.
func decompress(r io.Reader) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(r, 64<<10)
	head, err := buffered.Peek(10)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch compression.DetectCompression(head) {
	case compression.Gzip:
		return gzip.NewReader(buffered)
	case compression.Zstd:
		z, err := zstd.NewReader(buffered, zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case compression.Uncompressed:
		return io.NopCloser(buffered), nil
	}
	return nil, fmt.Errorf("unknown compression: %w", errdefs.ErrNotImplemented)
}

const (
	readAheadChunk = 256 << 10
	readAheadDepth = 4
)

// readAhead reads from r in a goroutine of its own, a few chunks ahead of its reader: one core
// decompresses and hashes while another writes files. At most depth+2 chunks are in memory.
type readAhead struct {
	full, free chan []byte
	stop       chan struct{}
	wg         sync.WaitGroup
	once       sync.Once

	rest, chunk []byte
	err         error // what ended the stream; written before full is closed
}

func newReadAhead(r io.Reader) *readAhead {
	a := &readAhead{full: make(chan []byte, readAheadDepth), free: make(chan []byte, readAheadDepth+2), stop: make(chan struct{})}
	for range readAheadDepth + 2 {
		a.free <- nil // made when first needed: most layers are small
	}
	a.wg.Go(func() {
		defer close(a.full)
		for {
			var chunk []byte
			select {
			case chunk = <-a.free:
			case <-a.stop:
				return
			}
			if chunk == nil {
				chunk = make([]byte, readAheadChunk)
			}
			n, err := fill(r, chunk[:readAheadChunk])
			if n > 0 {
				select {
				case a.full <- chunk[:n]:
				case <-a.stop:
					return
				}
			}
			if err != nil {
				a.err = err
				return
			}
		}
	})
	return a
}

// fill is io.ReadFull that passes the reader's own error on: a gzip stream that is cut off says
// io.ErrUnexpectedEOF, one that ends says io.EOF, and only one of them is the end of a layer.
func fill(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = r.Read(p[n:])
		n += m
	}
	return n, err
}

// Read implements io.Reader.
func (a *readAhead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.chunk != nil {
			a.free <- a.chunk
			a.chunk = nil
		}
		chunk, ok := <-a.full
		if !ok {
			if a.err == nil {
				return 0, io.ErrClosedPipe
			}
			return 0, a.err
		}
		a.chunk, a.rest = chunk, chunk
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// Close ends the goroutine and waits for it. What it read from may be closed afterwards.
func (a *readAhead) Close() error {
	a.once.Do(func() { close(a.stop) })
	a.wg.Wait()
	return nil
}
