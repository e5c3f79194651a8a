// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
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
	Stages         []ExecStage // in their order
}

// ExecStage is how long one part of an ExecSync took.
type ExecStage struct {
	Name string
	Took time.Duration
}

// ExecSync is a command that is run to its end.
type ExecSync struct {
	Process *specs.Process
	Timeout time.Duration // from the beginning of the launch; 0 is none
	Drain   time.Duration // how long output is waited for once the process has ended, if something still holds it
	Launch  Launch
}

// Launch waits until a process may be launched; release is called when it has been. Nil does not wait.
type Launch func(ctx context.Context) (release func(), err error)

func (l Launch) wait(ctx context.Context) (release func(), err error) {
	if l == nil {
		return func() {}, nil
	}
	return l(ctx)
}

// ExecSync runs a command to its end and returns what it printed. On time-out, or when ctx ends, the process and all that it has
// started are killed and the error wraps context.DeadlineExceeded or ctx's. Once the process is dead, output is waited for no longer
// than the drain time: a background child may hold the pipe for ever (CVE-2026-53495).
//
// Waiting for the launch does not count against the timeout, which is the command's ("Timeout in seconds to stop the command",
// api.proto): a node with much to do must not fail the probes of healthy containers. The kubelet's own deadline for the call is two
// minutes later (cri-client, remote_runtime.go) and ends the waiting.
func (t *Task) ExecSync(ctx context.Context, s ExecSync) (*Result, error) {
	stages := laps{since: time.Now()}
	release, err := s.Launch.wait(ctx)
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", t.id, err)
	}
	stages.end("turn")
	if s.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, s.Timeout, fmt.Errorf("command has not ended within %v: %w", s.Timeout, context.DeadlineExceeded))
		defer cancel()
	}
	// Anonymous pipes: nothing to clean up on disk, and gone with the daemon.
	var out, errOut capture
	defer out.close()
	defer errOut.close()
	if err := errors.Join(out.open(), errOut.open()); err != nil {
		release()
		return nil, fmt.Errorf("exec in container %s: %w", t.id, err)
	}
	e, err := t.launch(ctx, s.Process, &out, &errOut, release)
	if err != nil {
		return nil, err
	}
	defer e.Close()
	stages.add(e.stages)
	out.start()
	errOut.start()
	select {
	case <-e.Done():
	case <-ctx.Done():
		e.Kill()
		return nil, fmt.Errorf("exec in container %s: %w", t.id, context.Cause(ctx))
	case <-t.m.closing:
		return nil, fmt.Errorf("exec in container %s: the daemon is stopping: %w", t.id, errdefs.ErrUnavailable)
	}
	stages.end("command") // what is left of it: it runs already while it is being watched
	deadline := time.Now().Add(s.Drain)
	out.finish(deadline)
	errOut.finish(deadline)
	stages.end("output")
	return &Result{Stdout: out.buf, Stderr: errOut.buf, Exit: e.Exit(), Stages: stages.done}, nil
}

// laps takes the times of stages that follow each other.
type laps struct {
	since time.Time
	done  []ExecStage
}

// end says that a stage is over, and that the next one begins.
func (l *laps) end(name string) {
	now := time.Now()
	l.done = append(l.done, ExecStage{Name: name, Took: now.Sub(l.since)})
	l.since = now
}

// add takes over stages that somebody else has timed, up to now.
func (l *laps) add(stages []ExecStage) {
	l.done, l.since = append(l.done, stages...), time.Now()
}

// launch starts process, or gives up when ctx ends. The runtime cannot be told to give up; in a container that is frozen, or has no
// CPU time left, it takes as long as its own time-out allows. So it is left to finish by itself, and what it has started is killed.
func (t *Task) launch(ctx context.Context, process *specs.Process, out, errOut *capture, release func()) (*Exec, error) {
	type result struct {
		e   *Exec
		err error
	}
	launched := make(chan result, 1)
	stdio := ioattach.Stdio{Stdout: out.give(), Stderr: errOut.give()}
	// Nobody waits for these goroutines: they end with the runtime, and a daemon that stops does not wait for that either.
	go func() {
		defer release()
		e, err := t.Exec(context.WithoutCancel(ctx), process, stdio)
		stdio.Stdout.Close()
		stdio.Stderr.Close()
		launched <- result{e, err}
	}()
	var err error
	select {
	case r := <-launched:
		return r.e, r.err
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-t.m.closing:
		err = fmt.Errorf("the daemon is stopping: %w", errdefs.ErrUnavailable)
	}
	go func() {
		if r := <-launched; r.err == nil {
			r.e.Kill()
			r.e.Close()
		}
	}()
	return nil, fmt.Errorf("exec in container %s: launch: %w", t.id, err)
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

// give hands over the writing end, which is the receiver's to close.
func (c *capture) give() *os.File {
	w := c.w
	c.w = nil
	return w
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
