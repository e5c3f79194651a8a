// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// onThread runs fn on an OS thread of its own and waits for it. fn says whether the thread is as it
// was before; if it is not, the thread ends with fn and takes along whatever fn left on it:
// namespaces, ids, capabilities.
func onThread(fn func() (clean bool, err error)) error {
	done := make(chan error, 1)
	var run func()
	run = func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot be thrown away (see doc.go). Holding on to it makes sure that
			// the next goroutine gets another one.
			defer runtime.UnlockOSThread()
			next := make(chan struct{})
			go func() { defer close(next); run() }()
			<-next
			return
		}
		clean, err := fn()
		if clean {
			runtime.UnlockOSThread()
		}
		done <- err
	}
	go run()
	return <-done
}

// onLostThread runs fn on a thread that ends with it.
func onLostThread(fn func() error) error {
	return onThread(func() (bool, error) { return false, fn() })
}

// Do runs fn on a thread whose network namespace is the one pinned at path, and waits for it. fn
// must do its work on the calling goroutine: a goroutine it starts, and any wait that Go serves on
// another goroutine (a DNS look-up, a dial of several addresses), runs in the daemon's namespace.
//
// The error is fn's own, or says why the namespace could not be entered (then fn did not run);
// [fs.ErrNotExist] if there is no such pin.
func Do(path string, fn func() error) error {
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close()

	return onThread(func() (clean bool, err error) {
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return true, fmt.Errorf("open the daemon's network namespace: %w", err)
		}
		defer home.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return true, fmt.Errorf("enter network namespace %s: %w", path, err)
		}
		err = fn()
		// A thread that cannot go home must not serve any other goroutine.
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			return false, errors.Join(err, fmt.Errorf("leave network namespace %s: %w", path, back))
		}
		return true, err
	})
}

// WithEmptyNet calls fn, on the calling goroutine, with the path of a network namespace that has
// nothing in it and ends when fn returns. Nothing is mounted for it: a thread holds it.
func WithEmptyNet(fn func(path string) error) error {
	path, release := make(chan string), make(chan struct{})
	held := make(chan error, 1)
	go func() {
		held <- onLostThread(func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("unshare network namespace: %w", err)
			}
			path <- fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
			<-release
			return nil
		})
	}()
	select {
	case p := <-path:
		defer func() { close(release); <-held }()
		return fn(p)
	case err := <-held:
		return err
	}
}
