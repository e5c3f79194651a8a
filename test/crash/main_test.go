// SPDX-License-Identifier: Apache-2.0

package crash

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
