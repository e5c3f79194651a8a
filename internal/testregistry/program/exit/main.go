// SPDX-License-Identifier: Apache-2.0

// Command exit ends with the status it is told to: exit CODE [SLEEP-MS [say]]. It is the container process of
// tests that look at exit codes; being one static binary it starts in well under a millisecond. With say, its last
// act is to print the time, in nanoseconds since 1970.
package main

import (
	"fmt"
	"os"
	"strconv"
	"time"
)

func main() {
	if len(os.Args) < 2 || len(os.Args) > 4 {
		usage()
	}
	code, err := strconv.Atoi(os.Args[1])
	if err != nil || code < 0 || code > 255 {
		usage()
	}
	if len(os.Args) > 2 {
		ms, err := strconv.Atoi(os.Args[2])
		if err != nil || ms < 0 {
			usage()
		}
		time.Sleep(time.Duration(ms) * time.Millisecond)
	}
	if len(os.Args) == 4 {
		fmt.Println(time.Now().UnixNano())
	}
	os.Exit(code)
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: exit CODE [SLEEP-MS [say]]")
	os.Exit(2)
}
