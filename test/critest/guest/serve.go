// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"
)

// serve answers every request with a page, on port 80 or the address in the first argument. It shows what critest looks for in the
// servers of the same names: nginx calls its first process "master process" and writes a pid file, httpd logs its name.
func serve(name string) error {
	addr := ":80"
	if len(os.Args) > 1 {
		addr = os.Args[1]
	}
	if name == "nginx" {
		const title = "nginx: master process nginx"
		if os.Args[0] != title {
			return syscall.Exec("/proc/self/exe", append([]string{title}, os.Args[1:]...), os.Environ())
		}
		if err := os.WriteFile("/run/nginx.pid", fmt.Appendln(nil, os.Getpid()), 0o644); err != nil {
			return fmt.Errorf("write pid file: %w", err)
		}
	}
	fmt.Fprintln(os.Stderr, strings.TrimSpace(name+" listens on "+addr))
	server := &http.Server{Addr: addr, ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(page)}
	return server.ListenAndServe()
}

func page(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html")
	fmt.Fprintln(w, "<!DOCTYPE html><title>guest</title><h1>It serves</h1>")
}
