// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
)

func daemonRole() error { return nil }

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

var _ = fmt.Sprint
