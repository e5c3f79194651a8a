// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"
)

const (
	maxStdout = 4 << 20 // a result is a few KiB
	maxStderr = 16 << 10

	// pipeDelay is for how long output is waited for after the plug-in's end: a process that it
	// left behind may hold the pipes for ever.
	pipeDelay = 500 * time.Millisecond
	// killDelay is for how long a killed process may take to die: one in an uninterruptible sleep
	// does not.
	killDelay = 5 * time.Second
	// cancelGrace is for how long a plug-in may go on whose result nobody wants any more. An ADD takes tens of milliseconds.
	cancelGrace = 3 * time.Second
)

// pluginExec runs plug-ins for libcni. Unlike libcni's own, it takes a plug-in's whole process
// group down with it when the time is up, does not wait for processes that hold its pipes, and
// bounds what it reads.
type pluginExec struct {
	version.PluginDecoder
}

var _ invoke.Exec = (*pluginExec)(nil)

// pluginError is a plug-in's failure, told with all it had to say.
type pluginError struct {
	plugin string // its type
	verb   string // ADD, DEL, …
	text   string
	stderr string
	class  error // of errdefs, or the end of a ctx; may be nil
}

func (e *pluginError) Error() string {
	s := fmt.Sprintf("plug-in %s: %s: %s", e.plugin, e.verb, e.text)
	if e.stderr != "" {
		s += fmt.Sprintf(" (stderr: %q)", e.stderr)
	}
	return s
}

func (e *pluginError) Unwrap() error { return e.class }

// inNetwork names the network in an error. libcni names the plug-in around pluginError a second
// time; that is left out.
func inNetwork(network string, err error) error {
	var p *pluginError
	if errors.As(err, &p) {
		err = p
	}
	return fmt.Errorf("network %q: %w", network, err)
}

// timeoutError is the cause of the end of a verb's own ctx: the plug-in's fault, and worth another
// try, unlike the end of the caller's.
type timeoutError time.Duration

func (t timeoutError) Error() string { return "no end within " + time.Duration(t).String() }
func (t timeoutError) Unwrap() error { return errdefs.ErrUnavailable }

// FindInPath returns the first executable of that name in paths.
func (*pluginExec) FindInPath(plugin string, paths []string) (string, error) {
	// The name comes from a file that may be the work of others: it must not lead elsewhere.
	if plugin == "" || plugin == "." || plugin == ".." || strings.ContainsRune(plugin, os.PathSeparator) {
		return "", fmt.Errorf("%q is no name of a plug-in: %w", plugin, errdefs.ErrInvalidArgument)
	}
	for _, dir := range paths {
		p := filepath.Join(dir, plugin)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("plug-in %s is not in %s: %w", plugin, strings.Join(paths, ", "), errdefs.ErrFailedPrecondition)
}

// findAll returns an error for the first plug-in of a network, addresses' included, that is not there.
func (e *pluginExec) findAll(list *libcni.NetworkConfigList, paths []string) error {
	for _, p := range list.Plugins {
		for _, name := range []string{p.Network.Type, p.Network.IPAM.Type} {
			if name == "" && p.Network.Type != "" {
				continue // not every plug-in hands out addresses
			}
			if _, err := e.FindInPath(name, paths); err != nil {
				return err
			}
		}
	}
	return nil
}

// ExecPlugin runs one plug-in; libcni's contract. When ctx ends, the plug-in and all of its process
// group are killed, and dead when ExecPlugin returns.
func (*pluginExec) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	fail := &pluginError{plugin: filepath.Base(path), verb: verbOf(environ)}
	if err := ctx.Err(); err != nil {
		fail.text, fail.class = "not started: "+context.Cause(ctx).Error(), context.Cause(ctx)
		return nil, fail
	}
	enter(ctx, "CNI "+fail.verb+" "+fail.plugin)
	stdout, stderr := &boundedBuffer{most: maxStdout}, &boundedBuffer{most: maxStderr}
	killed, err := runGroup(ctx, path, stdin, environ, stdout, stderr)
	out := stdout.bytes()
	fail.stderr = string(bytes.TrimSpace(stderr.bytes()))
	switch {
	case killed != nil:
		fail.text, fail.class = "killed: "+killed.Error(), killed
		if err != nil {
			fail.text += ": " + err.Error()
		}
		return nil, fail
	case err != nil:
		fail.text = describeFailure(err, out)
		return nil, fail
	case fail.verb == "ADD" && !isObject(out):
		fail.text = fmt.Sprintf("succeeded without a result: its output is %s", excerpt(out))
		return nil, fail
	}
	return out, nil
}

// describeFailure reads the error that a plug-in prints as its result.
func describeFailure(err error, stdout []byte) string {
	var e types.Error
	if json.Unmarshal(stdout, &e) == nil && e.Msg != "" {
		text := e.Msg
		if e.Details != "" {
			text += ": " + e.Details
		}
		return fmt.Sprintf("%s (code %d)", text, e.Code)
	}
	if len(stdout) == 0 {
		return err.Error()
	}
	return fmt.Sprintf("%v: its output is %s", err, excerpt(stdout))
}

func excerpt(b []byte) string {
	const most = 200
	if len(b) > most {
		return fmt.Sprintf("%q and %d bytes more", b[:most], len(b)-most)
	}
	return fmt.Sprintf("%q", b)
}

func isObject(b []byte) bool {
	b = bytes.TrimSpace(b)
	return len(b) > 0 && b[0] == '{' && json.Valid(b)
}

func verbOf(environ []string) string {
	for _, kv := range environ {
		if v, ok := strings.CutPrefix(kv, "CNI_COMMAND="); ok {
			return v
		}
	}
	return ""
}

// runGroup runs a program as the leader of its own process group. killed is the cause of ctx's end
// if the group had to be killed for it; err is the program's.
func runGroup(ctx context.Context, path string, stdin []byte, environ []string, stdout, stderr *boundedBuffer) (killed, err error) {
	if ctx.Err() != nil {
		return context.Cause(ctx), nil // the chain ended while the plug-in before this one was let finish
	}
	// A daemon that dies leaves its plug-ins to finish; the next one waits for them before anything else (internal/orphan).
	cmd, pidfd, err := start(ctx, path, stdin, environ, stdout, stderr)
	if err != nil {
		return nil, err
	}
	// As long as the leader is not reaped, its pid, and with it the group's number, cannot be taken
	// by anybody else. So its death is looked at without reaping, and everything that names the
	// group happens before cmd.Wait.
	dead := make(chan error, 1)
	go func() {
		defer unix.Close(pidfd)
		dead <- waitNoReap(pidfd)
	}()
	ended := func(err error) error {
		if err != nil {
			return errors.Join(err, cmd.Wait())
		}
		return ignoreHeldPipes(cmd.Wait())
	}
	select {
	case err := <-dead:
		return nil, ended(err)
	case <-ctx.Done():
	}
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		// Nobody wants the result any more, but what is cut off in the middle may leave what no DEL finds: host-local makes the file of
		// an address before it writes into it whose it is. So only what hangs is killed; what ran out of time has had its time.
		select {
		case err := <-dead:
			return nil, ended(err)
		case <-time.After(cancelGrace):
		}
	}
	killed = context.Cause(ctx)
	_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	select {
	case <-dead:
		err := killGroup(cmd.Process.Pid)
		_ = cmd.Wait() // "signal: killed" is no news
		return killed, err
	case <-time.After(killDelay):
		// Nothing can be done about it; whenever it goes, it is cleaned up after.
		pid := cmd.Process.Pid
		go func() { <-dead; _ = killGroup(pid); _ = cmd.Wait() }()
		return killed, fmt.Errorf("process %d does not die", pid)
	}
}

// start starts the program; a binary that is being replaced (ETXTBSY) gets a moment for it.
func start(ctx context.Context, path string, stdin []byte, environ []string, stdout, stderr *boundedBuffer) (*exec.Cmd, int, error) {
	for {
		pidfd := -1
		cmd := exec.Command(path)
		cmd.Env = environ
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), stdout, stderr
		cmd.WaitDelay = pipeDelay
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, PidFD: &pidfd}
		err := cmd.Start()
		if err == nil {
			return cmd, pidfd, nil
		}
		if !errors.Is(err, unix.ETXTBSY) {
			return nil, -1, err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, -1, errors.Join(err, context.Cause(ctx))
		}
	}
}

func waitNoReap(pidfd int) error {
	for {
		err := unix.Waitid(unix.P_PIDFD, pidfd, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("waitid", err)
		}
	}
}

// ignoreHeldPipes: the plug-in ended well, and something it started keeps its output open. What it
// wrote itself has been read by then.
func ignoreHeldPipes(err error) error {
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	return err
}

// boundedBuffer keeps the first bytes and swallows the rest, so that the writer never blocks. It
// may be read while a process that cannot be killed still writes.
type boundedBuffer struct {
	most int
	mu   sync.Mutex
	buf  []byte
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf = append(b.buf, p[:min(len(p), b.most-len(b.buf))]...)
	return len(p), nil
}

func (b *boundedBuffer) bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.buf)
}
