// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

// connListener keeps track of its connections, for two things that net/http does not do once a connection has been upgraded: tell
// the session when the client is gone, and cut it when the server stops.
type connListener struct {
	net.Listener

	mu     sync.Mutex
	conns  map[*conn]struct{}
	closed bool
}

func newConnListener(l net.Listener) *connListener {
	return &connListener{Listener: l, conns: make(map[*conn]struct{})}
}

func (l *connListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tracked := &conn{Conn: c, listener: l, gone: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_ = c.Close()
		return nil, net.ErrClosed
	}
	l.conns[tracked] = struct{}{}
	return tracked, nil
}

// closeAll stops listening and closes every connection there is.
func (l *connListener) closeAll() {
	l.mu.Lock()
	l.closed = true
	conns := make([]*conn, 0, len(l.conns))
	for c := range l.conns {
		conns = append(conns, c)
	}
	l.mu.Unlock()
	_ = l.Listener.Close()
	for _, c := range conns {
		_ = c.Close()
	}
}

// conn is a connection that knows when its client is gone: when a read ends in anything but a time-out. Both protocols read all
// the time, so that is soon.
type conn struct {
	net.Conn
	listener *connListener

	once sync.Once
	gone chan struct{}
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	// net/http interrupts its own read by a deadline before it hands over an upgraded connection.
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.once.Do(func() { close(c.gone) })
	}
	return n, err
}

// Close may be called more than once.
func (c *conn) Close() error {
	c.once.Do(func() { close(c.gone) })
	c.listener.mu.Lock()
	delete(c.listener.conns, c)
	c.listener.mu.Unlock()
	return c.Conn.Close()
}

// connContext makes the contexts of a connection's requests end with the connection. net/http does that itself only until a
// handler takes the connection over, which is what an upgrade is.
func connContext(ctx context.Context, nc net.Conn) context.Context {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	c, ok := nc.(*conn)
	if !ok {
		return ctx
	}
	ctx, cancel := context.WithCancel(context.WithValue(ctx, connKey{}, c))
	// The goroutine's end: http.Server closes every connection that a handler has not taken over, the protocols close the
	// others when their session ends, and closeAll what is left.
	go func() { <-c.gone; cancel() }()
	return ctx
}

// connKey is under what a session's context holds its connection.
type connKey struct{}

// endGrace is how long the end of a session may take to be sent.
const endGrace = 10 * time.Second

// endSoon makes sure that a session whose process is done lets go of its connection. What is left to send is how it ended; a client
// that does not read, which may be why it was ended, would hold that up for as long as it likes.
func endSoon(ctx context.Context) {
	if c, ok := ctx.Value(connKey{}).(*conn); ok {
		timer := time.AfterFunc(endGrace, func() { _ = c.Close() })
		context.AfterFunc(ctx, func() { timer.Stop() }) // the connection is gone, as it should be
	}
}

// baseContext gives every session the daemon's logger.
func baseContext(logger klog.Logger) func(net.Listener) context.Context {
	return func(net.Listener) context.Context { return klog.NewContext(context.Background(), logger) }
}

// errorLog is where net/http writes what it cannot tell anybody: a TLS handshake that failed, a handler that panicked.
type errorLog struct{ logger klog.Logger }

func (e errorLog) Write(p []byte) (int, error) {
	e.logger.Info("Streaming server", "err", strings.TrimSpace(string(p)))
	return len(p), nil
}
