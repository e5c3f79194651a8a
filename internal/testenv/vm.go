// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// Slow stretches how long a test waits for something at most: by the factor $EMBEDCRI_TEST_SLOW, on machines that are slower than
// what the test was written on (an emulated processor: 10 or more). It is not for times that are part of what is tested, like a
// grace period.
func Slow(d time.Duration) time.Duration {
	f, err := strconv.ParseFloat(os.Getenv("EMBEDCRI_TEST_SLOW"), 64)
	if err != nil || f < 1 {
		return d
	}
	return time.Duration(float64(d) * f)
}

// CgroupDriver returns the cgroup driver to test with: $EMBEDCRI_CGROUP_DRIVER, else cgroupfs.
func CgroupDriver() string {
	if d := os.Getenv("EMBEDCRI_CGROUP_DRIVER"); d != "" {
		return d
	}
	return "cgroupfs"
}

// Program returns a program for a container that was built beforehand, for machines without a Go compiler: the file of that name in
// $EMBEDCRI_TEST_PROGRAMS, empty without that variable.
func Program(name string) string {
	if dir := os.Getenv("EMBEDCRI_TEST_PROGRAMS"); dir != "" {
		return filepath.Join(dir, name)
	}
	return ""
}
