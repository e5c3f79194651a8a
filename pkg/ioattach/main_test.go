// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"context"
	"fmt"
	"os"
	"testing"
)

// TestMain lets the test binary be the other programs a test needs, as the daemon's binary is
// its own keeper.
func TestMain(m *testing.M) {
	if role, ok := os.LookupEnv("IOATTACH_TEST_ROLE"); ok {
		if err := roles[role](); err != nil {
			fmt.Fprintln(os.Stderr, role, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var roles = map[string]func() error{
	"keeper": func() error { return KeeperMain(context.Background(), os.Args[len(os.Args)-1:]) },
	"daemon": daemonRole,
	"writer": writerRole,
}
