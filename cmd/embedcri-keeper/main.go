// SPDX-License-Identifier: Apache-2.0

// Command embedcri-keeper holds the file descriptors of container streams while the daemon is away: one small process for a
// node, whatever the number of pods. The daemon starts it and it ends with `embedcri cleanup`. It is a program of its own because
// the daemon's code would cost it ten times the memory.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/embedcri/embedcri/pkg/ioattach"
)

func main() {
	if err := ioattach.KeeperMain(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "embedcri-keeper:", err)
		os.Exit(1)
	}
}
