// SPDX-License-Identifier: Apache-2.0

// Command testregistry serves the images of internal/testregistry until it is interrupted, and prints
// their references, one a line, once they can be pulled:
//
//	go run ./hack/testregistry -listen 127.0.0.1:5000
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/embedcri/embedcri/internal/testregistry"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:5000", "`address` to serve on; port 0 takes a free one")
	images := flag.String("images", strings.Join(testregistry.Names(), ","), "comma-separated `names` of the images to serve")
	flag.Parse()
	if err := run(*listen, strings.Split(*images, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "testregistry:", err)
		os.Exit(1)
	}
}

func run(listen string, images []string) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	registry, err := testregistry.Serve(testregistry.Options{Listen: listen})
	if err != nil {
		return err
	}
	for _, image := range images {
		ref, err := registry.Add(image)
		if err != nil {
			return err
		}
		fmt.Println(ref)
	}
	fmt.Println("ready")
	<-stop
	return registry.Close()
}
