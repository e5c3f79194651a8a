// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/klog/v2"
)

// lingerIdle is how long a forwarded connection, one of whose directions has ended, may be silent in the other. A client that has
// closed its connection looks to us like one that has only finished sending, and many servers do not mind the latter: without a
// bound every such connection would stay until kubectl is stopped. As long as data flows, there is no bound.
const lingerIdle = 2 * time.Minute

// ports connects cri-streaming's streams to a pod's ports. ctx ends when the client is gone; the one that the module passes to
// PortForward never does.
type ports struct {
	p   pod
	ctx context.Context
}

var _ portforward.PortForwarder = ports{}

// PortForward carries one connection. It returns when both directions have ended, the client is gone, or what is left of the
// connection has been silent for too long.
func (f ports) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	nc, err := f.p.Dial(f.ctx, int(port))
	if err != nil {
		return err
	}
	return forward(f.ctx, nc, stream, lingerIdle)
}

// forward copies between a pod's connection and a client's stream, each way until its own end of file, which it passes on. It
// closes nc, and leaves stream to its owner.
func forward(ctx context.Context, nc net.Conn, stream io.ReadWriteCloser, linger time.Duration) error {
	defer nc.Close()
	var moved atomic.Int64
	toPod, toClient := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := io.Copy(counted{nc, &moved}, stream)
		if err == nil {
			err = closeWrite(nc)
		}
		toPod <- err
	}()
	go func() {
		_, err := io.Copy(counted{stream, &moved}, nc)
		if err == nil {
			endStream(stream)
		}
		toClient <- err
	}()

	// Whatever goroutine is left when this returns is let go: nc is closed, and cri-streaming resets the stream.
	var idle <-chan time.Time
	for last, left := int64(-1), 2; left > 0; {
		select {
		case err := <-toPod:
			if err != nil {
				return forwardError(ctx, "to the pod", err)
			}
			left--
		case err := <-toClient:
			if err != nil {
				return forwardError(ctx, "to the client", err)
			}
			left--
		case <-ctx.Done():
			return nil
		case <-idle:
			if now := moved.Load(); now == last {
				klog.FromContext(ctx).V(quietVerbosity).Info("Cut a half-closed forwarded connection that was silent", "after", linger)
				return nil
			}
		}
		last, idle = moved.Load(), time.After(linger)
	}
	return nil
}

// counted is a writer that counts.
type counted struct {
	w io.Writer
	n *atomic.Int64
}

func (c counted) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// closeWrite tells the pod that the client has sent all. A connection that is gone by then needs no telling.
func closeWrite(nc net.Conn) error {
	h, ok := nc.(interface{ CloseWrite() error })
	if !ok {
		return nil
	}
	if err := h.CloseWrite(); err != nil && !errors.Is(err, syscall.ENOTCONN) && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// endStream tells the client that the pod has sent all. A SPDY stream is closed for each direction apart, so its Close does just
// that. Close of a WebSocket channel ends what we read from it, and there is nothing in that protocol to say the other thing.
func endStream(stream io.Closer) {
	if _, spdy := stream.(interface{ Reset() error }); spdy {
		_ = stream.Close()
	}
}

// forwardError is what a client is told. One that is gone is not told anything.
func forwardError(ctx context.Context, direction string, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("copy %s: %w", direction, err)
}
