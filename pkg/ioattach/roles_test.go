// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
)

// daemonRole is a daemon that a test kills: args are its root directory, the number of
// containers, and what each container's two writers get. It creates the containers that are not
// there and loads the others, rotates their logs without end and returns when all output has
// come to its end.
func daemonRole() error {
	root, args := os.Args[1], os.Args[3:]
	containers, err := strconv.Atoi(os.Args[2])
	if err != nil {
		return err
	}
	keeper, err := OpenKeeper(context.Background(), testKeeper(root))
	if err != nil {
		return err
	}
	hub, err := New(HubOptions{Dir: filepath.Join(root, "hub"), Keeper: keeper})
	if err != nil {
		return err
	}
	var all []*Streams
	for i := range containers {
		dir, o := filepath.Join(root, fmt.Sprint("c", i), "io"), Options{LogPath: filepath.Join(root, "logs", fmt.Sprint("c", i))}
		st, err := hub.Load(dir, o)
		if errors.Is(err, errdefs.ErrNotFound) {
			st, err = createWriters(hub, dir, o, args)
		}
		if err != nil {
			return err
		}
		all = append(all, st)
	}
	if err := os.WriteFile(filepath.Join(root, "ready"), nil, 0o600); err != nil {
		return err
	}
	rotate := time.NewTicker(5 * time.Millisecond)
	for _, st := range all {
		for _, s := range st.sources {
			for ended := false; !ended; {
				select {
				case <-s.ended:
					ended = true
				case <-rotate.C:
					for _, st := range all {
						old, err := filepath.Glob(st.opts.LogPath + ".*")
						if err != nil {
							return err
						}
						if err := os.Rename(st.opts.LogPath, fmt.Sprint(st.opts.LogPath, ".", len(old))); err != nil && !errors.Is(err, os.ErrNotExist) {
							return err
						}
						if err := st.ReopenLog(); err != nil {
							return err
						}
					}
				}
			}
		}
	}
	return nil
}

func createWriters(hub *Hub, dir string, o Options, args []string) (*Streams, error) {
	st, err := hub.Create(dir, o)
	if err != nil {
		return nil, err
	}
	io, err := st.Stdio()
	if err != nil {
		return nil, err
	}
	for _, f := range []*os.File{io.Stdout, io.Stderr} {
		cmd := roleCmd("writer", args...)
		cmd.Stdout = f
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
	}
	return st, st.Started()
}

func testKeeper(root string) KeeperOptions {
	return KeeperOptions{Socket: filepath.Join(root, "keeper"), Command: []string{"/proc/self/exe"},
		Env: []string{"IOATTACH_TEST_ROLE=keeper"}}
}

// roleCmd is the test binary in another role.
func roleCmd(role string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), "IOATTACH_TEST_ROLE="+role)
	return cmd
}

// writerRole writes args[1] numbered lines of args[2] bytes (newline included) with write(2)
// calls of up to args[3] bytes to stdout.
func writerRole() error {
	var v [3]int
	for i := range v {
		n, err := strconv.Atoi(os.Args[1+i])
		if err != nil {
			return err
		}
		v[i] = n
	}
	lines, size, per := v[0], v[1], v[2]
	pad := bytes.Repeat([]byte{'x'}, size)
	buf := make([]byte, 0, per+size)
	flush := func() error {
		_, err := os.Stdout.Write(buf)
		buf = buf[:0]
		return err
	}
	for i := range lines {
		if len(buf)+size > per && len(buf) > 0 {
			if err := flush(); err != nil {
				return err
			}
		}
		at := len(buf)
		buf = appendNumber(buf, i)
		buf = append(buf, ' ')
		buf = append(buf, pad[:size-1-(len(buf)-at)]...)
		buf = append(buf, '\n')
	}
	return flush()
}

// appendNumber appends ten digits.
func appendNumber(b []byte, n int) []byte {
	var d [10]byte
	for i := len(d) - 1; i >= 0; i-- {
		d[i] = byte('0' + n%10)
		n /= 10
	}
	return append(b, d[:]...)
}
