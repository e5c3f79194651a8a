// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

// Client is one attached client. What it does not want is nil.
type Client struct {
	// Stdin is copied to the process. A Read may still be waiting when Attach has returned; it ends
	// when the caller closes the transport.
	Stdin io.Reader
	// Stdout and Stderr get the output from now on and are closed behind the last byte. A terminal
	// has no stderr. If Attach returns an error, a Write may still be under way, until the caller
	// closes the transport.
	Stdout, Stderr io.WriteCloser
	// TTY says that the client has a terminal; Resize is its size, whenever it changes.
	TTY    bool
	Resize <-chan Size
}

// ErrSlow is what Attach returns to a client that could not keep up with the output. It is of
// the class errdefs.ErrResourceExhausted.
var ErrSlow = fmt.Errorf("attached client does not keep up with the output: %w", errdefs.ErrResourceExhausted)

// Attach is Join and Serve at once.
func (st *Streams) Attach(ctx context.Context, c Client) error {
	a, err := st.Join(c)
	if err != nil {
		return err
	}
	return a.Serve(ctx)
}

// Attachment is a client that has joined a process's streams.
type Attachment struct {
	st *Streams
	cl *client
}

// Join adds c to the process's clients: whatever is read from now on is c's, also what comes before Serve is called, which has to
// follow. There is no replay. With Options.Exec there is one client, for which the output waits: joined before the process is
// launched it gets every byte, however short a life that has. errdefs.ErrFailedPrecondition if the output has ended.
func (st *Streams) Join(c Client) (*Attachment, error) {
	if st.opts.TTY {
		c.Stderr = nil
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.ended {
		return nil, fmt.Errorf("attach to %s: output has ended: %w", st.dir, errdefs.ErrFailedPrecondition)
	}
	if st.opts.Exec && len(st.clients) > 0 {
		return nil, fmt.Errorf("attach to %s: exec has its client already: %w", st.dir, errdefs.ErrFailedPrecondition)
	}
	cl := newClient(c, st.hub, st.opts.Exec)
	st.clients[cl] = struct{}{}
	go cl.run()
	if st.opts.Exec {
		if err := st.begin(); err != nil {
			delete(st.clients, cl)
			cl.fail(err)
			return nil, err
		}
	}
	return &Attachment{st: st, cl: cl}, nil
}

// Serve connects the client until the output ends (nil), ctx ends, the client's side fails, or it falls behind by more than
// HubOptions.ClientBuffer (ErrSlow): nobody waits for it, but for an exec's. It is called once, and lets go of the client.
func (a *Attachment) Serve(ctx context.Context) error {
	st, cl := a.st, a.cl
	c := cl.Client
	defer st.leave(cl)
	stop := make(chan struct{})
	defer close(stop)

	var stdin chan error
	if c.Stdin != nil && st.opts.Stdin {
		stdin = make(chan error, 1)
		go func() { stdin <- st.copyStdin(c.Stdin, stop) }()
		if st.closesStdin() {
			defer st.closeStdin(true) // however the attach ends
		}
	}
	resize := c.Resize
	if !c.TTY || !st.opts.TTY {
		resize = nil
	}
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-cl.over:
			return cl.err
		case err := <-stdin:
			if err != nil {
				return fmt.Errorf("read stdin of attached client: %w", err)
			}
			stdin = nil
		case size, ok := <-resize:
			if !ok {
				resize = nil
				continue
			}
			if err := st.Resize(size.Width, size.Height); err != nil && !errdefs.IsFailedPrecondition(err) {
				st.hub.log.Error(err, "Resize the terminal", "dir", st.dir)
			}
		}
	}
}

// leave removes a client. The output of an exec that nobody listens to any more is thrown away.
func (st *Streams) leave(cl *client) {
	st.mu.Lock()
	delete(st.clients, cl)
	st.mu.Unlock()
	cl.fail(context.Canceled)
}

// fanOut gives a batch to all clients, without waiting for any. It says if s should wait
// instead, which only an exec does.
func (st *Streams) fanOut(s *source, b []byte) (wait bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.clients) == 0 {
		return false
	}
	own := append(make([]byte, 0, len(b)), b...) // b is the lane's
	for cl := range st.clients {
		wait = cl.push(s, own) || wait
	}
	return wait
}

// sourceEnded ends the clients once no source has anything more to come.
func (st *Streams) sourceEnded() {
	for _, s := range st.sources {
		select {
		case <-s.ended:
		default:
			return
		}
	}
	if st.opts.TTY {
		st.closeStdin(true) // it is the same terminal
	}
	st.endClients()
}

// endClients lets every client have what it is owed, and then end.
func (st *Streams) endClients() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.ended = true
	for cl := range st.clients {
		cl.finish()
	}
}
