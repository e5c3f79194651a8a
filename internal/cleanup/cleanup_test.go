// SPDX-License-Identifier: Apache-2.0

package cleanup

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestStack(t *testing.T) {
	var order []string
	step := func(name string, err error) (string, func() error) {
		return name, func() error { order = append(order, name); return err }
	}
	run := func(fail bool) (err error) {
		order = nil
		var s Stack
		defer s.OnError(&err)
		s.Add(step("a", nil))
		s.Add(step("b", errors.New("stuck")))
		s.Add(step("c", nil))
		if fail {
			return errors.New("boom")
		}
		s.Release()
		return nil
	}
	err := run(true)
	if !slices.Equal(order, []string{"c", "b", "a"}) {
		t.Errorf("undone in order %v", order)
	}
	if err == nil || !strings.Contains(err.Error(), "boom") || !strings.Contains(err.Error(), "undo b: stuck") {
		t.Errorf("error %v", err)
	}
	if err := run(false); err != nil || len(order) != 0 {
		t.Errorf("after success: %v, %v", err, order)
	}
}
