// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/embedcri/embedcri/pkg/ioattach"
)

// MaxOutput is what ExecSync keeps of each stream, in bytes; the rest is read and dropped. The kubelet's client takes no larger
// message, and a program that prints without end must not fill the daemon's memory (CVE-2022-1708).
const MaxOutput = 16 << 20

// Result is the outcome of an ExecSync.
type Result struct {
	Stdout, Stderr []byte
	Exit           Exit
}

// ExecSync runs process to its end and returns what it printed. timeout 0 is none. On time-out, or when ctx ends, the process and
// all that it has started are killed and the error wraps context.DeadlineExceeded or ctx's. Once the process is dead, output is
// waited for no longer than drain: a background child may hold the pipe for ever (CVE-2026-53495).
func (t *Task) ExecSync(ctx context.Context, process *specs.Process, timeout, drain time.Duration) (*Result, error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, fmt.Errorf("command has not ended within %v: %w", timeout, context.DeadlineExceeded))
		defer cancel()
	}
	// Anonymous pipes: nothing to clean up on disk, and gone with the daemon.
	var out, errOut capture
	defer out.close()
	defer errOut.close()
	if err := errors.Join(out.open(), errOut.open()); err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", t.id, err)
	}
	e, err := t.Exec(ctx, process, ioattach.Stdio{Stdout: out.w, Stderr: errOut.w})
	out.w.Close()
	errOut.w.Close()
	if err != nil {
		return nil, err
	}
	defer e.Close()
	out.start()
	errOut.start()
	select {
	case <-e.Done():
	case <-ctx.Done():
		e.Kill()
		return nil, fmt.Errorf("exec in container %s: %w", t.id, context.Cause(ctx))
	case <-t.m.closing:
		return nil, fmt.Errorf("exec in container %s: the daemon is stopping: %w", t.id, context.Canceled)
	}
	deadline := time.Now().Add(drain)
	out.finish(deadline)
	errOut.finish(deadline)
	return &Result{Stdout: out.buf, Stderr: errOut.buf, Exit: e.Exit()}, nil
}

// capture reads one stream of an exec.
type capture struct {
	r, w *os.File
	buf  []byte
	wg   sync.WaitGroup
}

func (c *capture) open() (err error) {
	c.r, c.w, err = os.Pipe()
	return err
}

func (c *capture) start() { c.wg.Go(c.read) }

func (c *capture) read() {
	chunk := chunks.Get().(*[]byte)
	defer chunks.Put(chunk)
	for {
		n, err := c.r.Read(*chunk)
		if keep := min(n, MaxOutput-len(c.buf)); keep > 0 {
			c.buf = append(c.buf, (*chunk)[:keep]...)
		}
		if err != nil { // io.EOF, or the deadline of finish
			return
		}
	}
}

// finish waits for the end of the stream, or for the deadline.
func (c *capture) finish(deadline time.Time) {
	_ = c.r.SetReadDeadline(deadline) // pipes support it
	c.wg.Wait()
}

// close ends the reader, if it still runs, and releases the pipe.
func (c *capture) close() {
	if c.w != nil {
		c.w.Close()
	}
	if c.r != nil {
		c.r.Close()
	}
	c.wg.Wait()
}

var chunks = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}
