// SPDX-License-Identifier: Apache-2.0

// Package cleanup is rollback that reads top to bottom: each step of an operation adds its undo, a failure runs them in reverse,
// success releases them.
package cleanup

import (
	"errors"
	"fmt"
)

// Stack holds the undos of the steps made so far. The zero value is ready. It belongs to one goroutine.
type Stack struct {
	undos []undo
}

type undo struct {
	what string
	f    func() error
}

// Add registers the undo of the step just made. what completes the sentence "undo …".
func (s *Stack) Add(what string, f func() error) { s.undos = append(s.undos, undo{what, f}) }

// Release forgets all undos: the operation has succeeded.
func (s *Stack) Release() { s.undos = nil }

// Run undoes in reverse order. An undo that fails does not stop the others; their errors are joined.
func (s *Stack) Run() error {
	var errs []error
	for i := len(s.undos) - 1; i >= 0; i-- {
		if err := s.undos[i].f(); err != nil {
			errs = append(errs, fmt.Errorf("undo %s: %w", s.undos[i].what, err))
		}
	}
	s.undos = nil
	return errors.Join(errs...)
}

// OnError is for a defer with a named result: if *err is set, the undos run and their errors are joined to it.
func (s *Stack) OnError(err *error) {
	if *err != nil {
		*err = errors.Join(*err, s.Run())
	}
}
