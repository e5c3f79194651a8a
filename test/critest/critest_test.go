// SPDX-License-Identifier: Apache-2.0

package critest

import (
	"cmp"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

var (
	focus = flag.String("focus", "", "run only the specs whose full name matches this `regexp`")
	logs  = flag.String("logs", "", "`directory` to keep critest's output, its report and the daemon's log in")
)

func TestCritest(t *testing.T) {
	suite := newSuite(t)
	t.Run("one-process", func(t *testing.T) { suite.run(t, *focus) })
	t.Run("parallel", func(t *testing.T) {
		// critest calls ginkgo by its name to start its processes.
		t.Setenv("PATH", filepath.Dir(findGinkgo(t))+":"+os.Getenv("PATH"))
		suite.run(t, *focus, "-parallel=4")
	})
	t.Run("websocket", func(t *testing.T) {
		// Nothing but streams differs from the first run.
		suite.run(t, cmp.Or(*focus, "Streaming"), "-websocket-exec", "-websocket-attach", "-websocket-portforward")
	})
}

// TestPullByDigest runs the spec that pulls by a digest, in a copy of critest where that digest is the one of an image built here.
func TestPullByDigest(t *testing.T) {
	suite := newSuite(t)
	b, err := os.ReadFile(suite.critest)
	if err != nil {
		t.Fatal(err)
	}
	compiledIn := regexp.MustCompile(regexp.QuoteMeta("gcr.io/"+digestImage+"@") + "sha256:[0-9a-f]{64}")
	if !compiledIn.Match(b) {
		t.Fatalf("critest does not ask for %s by a digest", digestImage)
	}
	suite.critest = filepath.Join(t.TempDir(), "critest")
	b = compiledIn.ReplaceAllLiteral(b, []byte("gcr.io/"+digestImage+"@"+suite.images.digest))
	if err := os.WriteFile(suite.critest, b, 0o755); err != nil {
		t.Fatal(err)
	}
	suite.exceptions = nil
	suite.run(t, "public image with digest")
}
