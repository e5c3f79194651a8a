// SPDX-License-Identifier: Apache-2.0

package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sort"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	startTimeout = 10 * time.Second
	callTimeout  = 10 * time.Second
	retryEvery   = time.Second
)

// Options say where the keeper is and how to start it.
type Options struct {
	Socket  string
	Command []string
	Env     []string
}

// Client is a daemon's end. See ioattach.Keeper for what its methods promise.
type Client struct {
	opts    Options
	renewed chan struct{}
	done    chan struct{}
	wg      sync.WaitGroup

	mu   sync.Mutex    // one request at a time
	conn *net.UnixConn // nil while there is no keeper
}

// Open connects to the keeper, starting it if need be.
func Open(ctx context.Context, o Options) (*Client, error) {
	if len(o.Command) == 0 {
		o.Command = []string{"/proc/self/exe", "keeper"}
	}
	c := &Client{opts: o, renewed: make(chan struct{}, 1), done: make(chan struct{})}
	conn, watch, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	c.conn = conn
	c.wg.Go(func() { c.follow(watch) })
	return c, nil
}

// Close lets go of the keeper.
func (c *Client) Close() error {
	close(c.done)
	c.mu.Lock()
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
	c.mu.Unlock()
	c.wg.Wait()
	return nil
}

// Renewed delivers a value when a new, empty keeper has taken the place of a lost one.
func (c *Client) Renewed() <-chan struct{} { return c.renewed }

// follow waits for the keeper's death and replaces it, until Close. watch is a connection that
// carries nothing: it ends when the keeper does.
func (c *Client) follow(watch *net.UnixConn) {
	for {
		stopped := c.wait(watch)
		if stopped {
			return
		}
		c.mu.Lock()
		if c.conn != nil {
			_ = c.conn.Close()
			c.conn = nil
		}
		c.mu.Unlock()
		var conn *net.UnixConn
		for {
			var err error
			ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
			conn, watch, err = c.connect(ctx)
			cancel()
			if err == nil {
				break
			}
			select {
			case <-c.done:
				return
			case <-time.After(retryEvery):
			}
		}
		c.mu.Lock()
		select {
		case <-c.done:
			c.mu.Unlock()
			_, _ = conn.Close(), watch.Close()
			return
		default:
		}
		c.conn = conn
		c.mu.Unlock()
		select {
		case c.renewed <- struct{}{}:
		default: // one is due already
		}
	}
}

// wait returns when watch ends, and true when it was Close that ended it.
func (c *Client) wait(watch *net.UnixConn) (stopped bool) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = watch.Read(make([]byte, 16))
	}()
	select {
	case <-c.done:
		stopped = true
	case <-ended:
	}
	_ = watch.Close()
	<-ended
	return stopped
}

// connect returns two connections to the keeper, which it starts if nobody answers.
func (c *Client) connect(ctx context.Context) (conn, watch *net.UnixConn, err error) {
	started := false
	for {
		conn, err = dial(c.opts.Socket)
		if err == nil {
			break
		}
		if !started {
			if err := c.start(); err != nil {
				return nil, nil, fmt.Errorf("start keeper: %w", err)
			}
			started = true
		}
		select {
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("connect to keeper: %w", errors.Join(ctx.Err(), err))
		case <-c.done:
			return nil, nil, net.ErrClosed
		case <-time.After(2 * time.Millisecond):
		}
	}
	if watch, err = dial(c.opts.Socket); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("connect to keeper: %w", err), conn.Close())
	}
	return conn, watch, nil
}

func dial(socket string) (*net.UnixConn, error) {
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socket, Net: "unixpacket"})
	if err != nil {
		return nil, err
	}
	if _, _, err := call(conn, encode(opHello, nil), nil); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// start runs the keeper in a session of its own, with nothing of ours but the program.
func (c *Client) start() error {
	args := append(append([]string{}, c.opts.Command[1:]...), c.opts.Socket)
	cmd := exec.Command(c.opts.Command[0], args...)
	cmd.Args[0] = "embedcri-keeper"
	cmd.Dir = "/"
	// One P and little garbage: the Go runtime's own share, before Main can ask for it.
	cmd.Env = append([]string{"GOMAXPROCS=1", "GOGC=20", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, c.opts.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	// It is our child as long as we live; somebody has to reap it should it die before us.
	go func() { _ = cmd.Wait() }()
	return nil
}

// call is one request on one connection.
func call(conn *net.UnixConn, req []byte, fds []int) (text []byte, fd int, err error) {
	if err := conn.SetDeadline(time.Now().Add(callTimeout)); err != nil {
		return nil, -1, err
	}
	if err := send(conn, req, fds); err != nil {
		return nil, -1, err
	}
	buf := make([]byte, maxPacket)
	n, got, err := receive(conn, buf)
	if err != nil {
		return nil, -1, err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		closeAll(got)
		return nil, -1, err
	}
	fd = -1
	if len(got) > 0 {
		fd = got[0]
		closeAll(got[1:])
	}
	switch buf[1] {
	case statusOK:
		return buf[2:n], fd, nil
	case statusMissing:
		return nil, fd, errdefs.ErrNotFound
	}
	return nil, fd, fmt.Errorf("keeper refused %q (its protocol is version %d, ours %d)", req[1], buf[0], version)
}

// errLost says that there is no keeper just now.
var errLost = fmt.Errorf("keeper is being replaced: %w", errdefs.ErrUnavailable)

func (c *Client) call(op byte, names []string, fds []int) ([]byte, int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return nil, -1, errLost
	}
	text, fd, err := call(c.conn, encode(op, names), fds)
	if isDisconnect(err) {
		err = errLost // follow sees it too
	}
	return text, fd, err
}

func isDisconnect(err error) bool {
	return errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.ENOTCONN) ||
		err != nil && (err.Error() == "EOF" || errors.Is(err, net.ErrClosed)) || errors.Is(err, os.ErrClosed)
}

// Put stores duplicates of fds under their names.
func (c *Client) Put(fds map[string]int) error {
	names := make([]string, 0, len(fds))
	for n := range fds {
		names = append(names, n)
	}
	sort.Strings(names)
	for len(names) > 0 {
		var nums []int
		size := 0
		for _, n := range names {
			if len(nums) == maxFDs || size+len(n) > maxNames {
				break
			}
			nums = append(nums, fds[n])
			size += len(n) + 1
		}
		if _, _, err := c.call(opPut, names[:len(nums)], nums); err != nil && !errors.Is(err, errLost) {
			return fmt.Errorf("put %d descriptors: %w", len(nums), err)
		}
		names = names[len(nums):]
	}
	return nil
}

// Get returns a descriptor of what name holds.
func (c *Client) Get(name string) (int, error) {
	_, fd, err := c.call(opGet, []string{name}, nil)
	if err == nil && fd < 0 {
		err = errors.New("keeper sent no descriptor")
	}
	if err != nil {
		return -1, fmt.Errorf("get %s: %w", name, err)
	}
	return fd, nil
}

// Open opens the FIFO path for reading, holds it under name, and returns a descriptor of it. A keeper of an older program
// refuses.
func (c *Client) Open(name, path string) (int, error) {
	_, fd, err := c.call(opOpen, []string{name, path}, nil)
	if err == nil && fd < 0 {
		err = errors.New("keeper sent no descriptor")
	}
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", path, err)
	}
	return fd, nil
}

// Drop removes names.
func (c *Client) Drop(names ...string) error {
	_, _, err := c.call(opDrop, names, nil)
	if err != nil && !errors.Is(err, errLost) {
		return fmt.Errorf("drop: %w", err)
	}
	return nil
}

// Names lists what the keeper has.
func (c *Client) Names() ([]string, error) {
	var all []string
	var after []string
	for {
		text, _, err := c.call(opList, after, nil)
		if err != nil {
			return all, fmt.Errorf("list: %w", err)
		}
		names := decodeNames(text)
		if len(names) == 0 {
			return all, nil
		}
		all = append(all, names...)
		after = names[len(names)-1:]
	}
}

// Stop ends the keeper at socket and removes the socket. It succeeds if there is none.
func Stop(socket string) error {
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socket, Net: "unixpacket"})
	if err == nil {
		_, _, err = call(conn, encode(opStop, nil), nil)
		err = errors.Join(err, conn.Close())
	} else if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		err = nil
	}
	for _, p := range []string{socket, socket + ".lock"} {
		if rerr := os.Remove(p); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}
