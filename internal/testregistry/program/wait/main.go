// SPDX-License-Identifier: Apache-2.0

// Command wait says ready and does nothing until SIGTERM; then it says bye and ends with status $CODE, by default 0. It is the
// container process of benchmarks.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	fmt.Println("ready")
	<-stop
	fmt.Println("bye")
	code, _ := strconv.Atoi(os.Getenv("CODE")) // not set: 0
	os.Exit(code)
}
