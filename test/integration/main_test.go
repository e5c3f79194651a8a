// SPDX-License-Identifier: Apache-2.0

// Package integration tests the daemon as the kubelet sees it: a real embedcri process on a real kernel with runc, CNI plug-ins
// and images pulled from a registry on loopback, driven by k8s.io/cri-client. Nothing below the client is faked.
package integration

import (
	"fmt"
	"os"
	"testing"

	"github.com/embedcri/embedcri/internal/testregistry"
)

// registry serves the images of all tests.
var registry *testregistry.Registry

func TestMain(m *testing.M) {
	var err error
	if registry, err = testregistry.Serve(testregistry.Options{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := registry.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
