// SPDX-License-Identifier: Apache-2.0

package runc

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
)

// Classes of failure that the runtime tells only in words.
var (
	ErrCommandNotFound      = errors.New("command not found")
	ErrCommandNotExecutable = errors.New("command cannot be executed")
	ErrStopped              = errors.New("container has stopped")
	ErrBusy                 = errors.New("cgroup is busy")
)

// classes are tried in order; the first text that occurs decides. The table test holds real messages.
var classes = []struct {
	text string
	err  error
}{
	{"executable file not found in $PATH", ErrCommandNotFound},           // runc: exec.LookPath
	{"executable file `", ErrCommandNotFound},                            // crun
	{"container does not exist", errdefs.ErrNotFound},                    // runc
	{"does not exist: No such file or directory", errdefs.ErrNotFound},   // crun
	{"cannot start a container that has stopped", ErrStopped},            // runc
	{"cannot exec in a stopped container", ErrStopped},                   // runc
	{"cannot exec in a paused container", errdefs.ErrFailedPrecondition}, // runc
	{"process not running", ErrStopped},                                  // runc kill
	{"container not running", ErrStopped},                                // runc kill, delete
	{"device or resource busy", ErrBusy},                                 // rmdir of a cgroup with a zombie
	{"unable to remove container's cgroup", ErrBusy},                     // runc, after its own retries
	{"the container is not running", ErrStopped},                         // crun
	{"unable to apply cgroup configuration", errdefs.ErrUnavailable},     // runc
	{"OOM-killed (memory limit too low?)", errdefs.ErrResourceExhausted}, // runc: init died before it was ready
	{"container with given ID already exists", errdefs.ErrAlreadyExists}, // runc
	{"umerical result out of range", errdefs.ErrInvalidArgument},         // either: a limit that the kernel does not take
	{"no space left on device", errdefs.ErrResourceExhausted},            // either
}

// classify wraps what the runtime said with its class, if it has one.
func classify(text string, err error) error {
	text = strings.TrimSpace(text)
	if text == "" {
		return err
	}
	for _, c := range classes {
		if strings.Contains(text, c.text) {
			return fmt.Errorf("%s: %w", text, c.err)
		}
	}
	if class := commandClass(text); class != nil {
		return fmt.Errorf("%s: %w", text, class)
	}
	return fmt.Errorf("%s: %w", text, err)
}

// commandClass recognises Go's exec errors, `exec: "/x": stat /x: no such file or directory`, which runc passes on when it looks
// for the program inside the rootfs. The words alone would also match a missing mount source.
func commandClass(text string) error {
	_, after, ok := strings.Cut(text, `exec: "`)
	if !ok {
		return nil
	}
	switch {
	case strings.Contains(after, "no such file or directory"), strings.Contains(after, "not a directory"):
		return ErrCommandNotFound
	case strings.Contains(after, "permission denied"), strings.Contains(after, "is a directory"),
		strings.Contains(after, "exec format error"), strings.Contains(after, "too many levels of symbolic links"):
		return ErrCommandNotExecutable
	}
	return nil
}

// lastError returns the last error-level message of the runtime's JSON log; empty if there is none.
func lastError(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	var last string
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var line struct{ Level, Msg string }
		if json.Unmarshal(sc.Bytes(), &line) == nil && (line.Level == "error" || line.Level == "fatal") && line.Msg != "" {
			last = line.Msg
		}
	}
	return last
}
