// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/embedcri/embedcri/pkg/sandbox"
)

func TestPanicIsInternal(t *testing.T) {
	pods, _, _ := node()
	pods.run = func(context.Context, *runtimeapi.PodSandboxConfig, string) (pod, error) { panic("a slip") }
	rt, _, s, lines := serve(t, pods, &fakeImages{})
	_, err := rt.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: podConfig()})
	wantCode(t, "panic", err, codes.Internal)
	if !strings.Contains(status.Convert(err).Message(), "a slip") {
		t.Errorf("%v", err)
	}
	all := strings.Join(lines.all(), "\n")
	if !strings.Contains(all, "interceptor_test.go") {
		t.Errorf("no stack in the log: %s", all)
	}
	if _, err := rt.Version(t.Context(), &runtimeapi.VersionRequest{}); err != nil {
		t.Errorf("the server is gone: %v", err)
	}
	for _, l := range s.Latencies() {
		if l.Method == "RunPodSandbox" && (l.Count != 1 || l.Errors != 1) {
			t.Errorf("%+v", l)
		}
	}
}

func TestOneLineForEachCall(t *testing.T) {
	pods, _, c := node()
	pods.run = func(ctx context.Context, _ *runtimeapi.PodSandboxConfig, _ string) (pod, error) {
		klog.FromContext(ctx).Info("from below")
		return pods.pods[0], nil
	}
	c.execSync = func(context.Context, []string, time.Duration) (sandbox.ExecResult, error) {
		return sandbox.ExecResult{}, errors.New("runc: boom")
	}
	rt, _, _, lines := serve(t, pods, &fakeImages{})
	ctx := t.Context()
	_, _ = rt.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: podConfig()})
	_, _ = rt.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: podID, Config: containerConfig()})
	_, _ = rt.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	_, _ = rt.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: ctrID, Cmd: []string{"login", "hunter2"}})
	got := lines.all()
	for i, want := range [][]string{
		{`"from below"`, `"call"=1`},
		{`"method"="RunPodSandbox"`, `"name"="default/web"`, `"pod"="` + podID, `"code"="OK"`, `"took"=`, `"call"=1`, `"level"=0`},
		{`"method"="CreateContainer"`, `"container"="ccc`, `"name"="app"`, `"call"=2`},
		{`"method"="ListContainers"`, `"level"=4`},
		{`"method"="ExecSync"`, `"error"="rpc error`, "runc: boom"},
	} {
		if i >= len(got) {
			t.Fatalf("only %d lines", len(got))
		}
		for _, w := range want {
			if !strings.Contains(got[i], w) {
				t.Errorf("line %d lacks %s: %s", i, w, got[i])
			}
		}
	}
	if all := strings.Join(got, "\n"); len(got) != 5 || strings.Contains(all, "hunter2") {
		t.Errorf("%d lines, or a secret in them:\n%s", len(got), all)
	}
}

func TestChanges(t *testing.T) {
	for method, want := range map[string]bool{
		"RunPodSandbox": true, "StopContainer": true, "PullImage": true, "Exec": true, "ReopenContainerLog": true, "UpdateRuntimeConfig": true,
		"ListImages": false, "StreamContainers": false, "ContainerStatus": false, "Status": false, "PodSandboxStats": false, "ExecSync": false,
	} {
		if changes(method) != want {
			t.Errorf("%s: %v", method, !want)
		}
	}
}

// TestStopIsBounded: a call that does not end does not keep the daemon.
func TestStopIsBounded(t *testing.T) {
	pods, _, c := node()
	began := make(chan struct{})
	c.execSync = func(ctx context.Context, _ []string, _ time.Duration) (sandbox.ExecResult, error) {
		close(began)
		<-ctx.Done()
		return sandbox.ExecResult{}, ctx.Err()
	}
	s, err := newServer(Options{Version: "1", StopGrace: 10 * time.Millisecond}, pods, &fakeImages{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	l := bufconn.Listen(1 << 16)
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	rt := clientOf(t, l)
	called := make(chan error, 1)
	go func() {
		_, err := rt.ExecSync(context.Background(), &runtimeapi.ExecSyncRequest{ContainerId: ctrID, Cmd: []string{"x"}})
		called <- err
	}()
	<-began
	cancel()
	select {
	case err := <-served:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Serve does not return")
	}
	if err := <-called; err == nil {
		t.Error("the call succeeded")
	}
	if _, err := net.Dial("tcp", s.streaming.base.Host); err == nil {
		t.Error("the streaming listener is still open")
	}
}
