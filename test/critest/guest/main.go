// SPDX-License-Identifier: Apache-2.0

// Command guest is every program in critest's images that is not busybox. What it does depends on the name it is called by:
//
//	nginx, httpd [ADDRESS]  a web server, see serve
//	nonewprivs              prints its effective user id
//	pause                   waits for SIGTERM or SIGINT
//	pgrep NAME, ipcs -m     what Debian's busybox lacks
package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	// What follows a colon is decoration: "nginx: master process nginx".
	name, _, _ := strings.Cut(filepath.Base(os.Args[0]), ":")
	var err error
	switch name {
	case "nginx", "httpd":
		err = serve(name)
	case "nonewprivs":
		fmt.Printf("Effective uid: %d\n", os.Geteuid())
	case "pause":
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
		<-stop
	case "pgrep":
		err = pgrep()
	case "ipcs":
		err = ipcs()
	default:
		err = fmt.Errorf("there is no program %q", name)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}
