// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testenv"
	"github.com/embedcri/embedcri/internal/testnode"
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

// fixture is a node with one image and one pod on the host's network.
type fixture struct {
	*testnode.Node
	image string
	pod   string
	pc    *runtimeapi.PodSandboxConfig
}

func start(t *testing.T) *fixture {
	f := &fixture{Node: testnode.Start(t, testnode.Options{NoNetwork: true}), image: registry.Ref(t, "busybox:1")}
	f.Pull(f.image)
	f.pc = f.HostPodConfig()
	f.pod = f.RunPod(f.pc)
	return f
}

// sh is the configuration of a container that runs a shell script.
func (f *fixture) sh(script string) *runtimeapi.ContainerConfig {
	return f.ContainerConfig(f.image, "sh", "-c", script)
}

// forever keeps a container running, and lets it end on SIGTERM.
const forever = "trap exit TERM; while :; do sleep 0.1; done"

// output runs a container to its end and returns what it has written to both streams.
func (f *fixture) output(c *runtimeapi.ContainerConfig) string {
	f.T.Helper()
	id := f.Run(f.pod, f.pc, c)
	if s := f.WaitExited(id); s.ExitCode != 0 {
		f.T.Errorf("exit code %d: %s", s.ExitCode, s.Message)
	}
	var b strings.Builder
	for _, line := range f.ContainerLog(id) {
		_, text, _ := strings.Cut(line, " F ")
		b.WriteString(text + "\n")
	}
	if err := f.Runtime.RemoveContainer(f.Ctx(), id); err != nil {
		f.T.Error(err)
	}
	return b.String()
}

// inside runs a command in a container.
func (f *fixture) inside(ctr, script string) string {
	f.T.Helper()
	out, errOut, err := f.Runtime.ExecSync(f.Ctx(), ctr, []string{"sh", "-c", script}, testenv.Slow(30*time.Second))
	if err != nil {
		f.T.Errorf("%s: %v: %s", script, err, errOut)
	}
	return string(out)
}

// want compares.
func want[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// wantIDs compares the ids of a list with the wanted ones, in any order.
func wantIDs[T interface{ GetId() string }](t testing.TB, what string, got []T, err error, ids ...string) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	var is []string
	for _, g := range got {
		is = append(is, g.GetId())
	}
	slices.Sort(is)
	slices.Sort(ids)
	if !slices.Equal(is, ids) {
		t.Errorf("%s: got %v, want %v", what, is, ids)
	}
}

// wantCode looks at the gRPC code of an error, which the kubelet acts on.
func wantCode(t testing.TB, what string, err error, code codes.Code) {
	t.Helper()
	for e := err; e != nil; e = errors.Unwrap(e) {
		if s, ok := status.FromError(e); ok && s.Code() == code {
			return
		}
	}
	if err != nil || code != codes.OK {
		t.Errorf("%s: %v; want code %v", what, err, code)
	}
}
