// SPDX-License-Identifier: Apache-2.0

// Package failpoint lets a test end the daemon, or fail a call, exactly before or after one of its durable steps. A durable step
// makes or unmakes something that outlives the process, or records that it is about to. They are all listed in steps.go; the crash
// table (test/crash) is generated from that list, so that a step without a row is a failing test.
//
// It is off, and costs a comparison, unless the environment variable EMBEDCRI_FAILPOINT names a file. That file holds one order,
//
//	<step> <before|after> <kill|error|panic|pause>
//
// and is taken by the first who gets there: it is renamed to <file>.hit before the order is carried out, so each order is carried
// out once, and whoever wrote it can tell whether it was.
package failpoint

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Env is the environment variable that names the file with the order.
const Env = "EMBEDCRI_FAILPOINT"

// ErrInjected is what a step returns that was ordered to fail.
var ErrInjected = errors.New("failure injected by a test")

// Modes of an order.
const (
	Kill  = "kill"  // SIGKILL to this process
	Error = "error" // the step returns ErrInjected; "before": it is not made, "after": it is made and said to have failed
	Panic = "panic" // a panic in the goroutine that makes the step
	Pause = "pause" // the step waits for the file <file>.hit to be removed, for at most pauseMost
)

const (
	pauseMost = time.Minute
	pausePoll = 2 * time.Millisecond
)

var file = os.Getenv(Env)

// Step is one durable step.
type Step struct{ name string }

var steps []Step

func step(name string) Step {
	s := Step{name}
	steps = append(steps, s)
	return s
}

// Steps returns all durable steps.
func Steps() []Step { return slices.Clone(steps) }

func (s Step) String() string { return s.name }

// Do makes the step: it calls f and returns its error, unless a test has ordered otherwise.
func (s Step) Do(f func() error) error {
	if file == "" {
		return f()
	}
	if err := s.obey("before"); err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	return s.obey("after")
}

// obey carries out the order in the file, if it is for this place.
func (s Step) obey(when string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil // no order, or somebody else has just taken it
	}
	mode, ok := strings.CutPrefix(strings.TrimSpace(string(b)), s.name+" "+when+" ")
	if !ok || os.Rename(file, file+".hit") != nil {
		return nil
	}
	switch mode {
	case Kill:
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {} // the signal is on its way; nothing more happens in this goroutine
	case Error:
		return fmt.Errorf("%s %s: %w", when, s.name, ErrInjected)
	case Panic:
		panic(fmt.Sprintf("%s %s: panic injected by a test", when, s.name))
	case Pause:
		for deadline := time.Now().Add(pauseMost); time.Now().Before(deadline); time.Sleep(pausePoll) {
			if _, err := os.Lstat(file + ".hit"); err != nil {
				break
			}
		}
	}
	return nil
}
