// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testnode"
)

// dial connects to a node's socket without the kubelet's client in between.
func dial(t testing.TB, n *testnode.Node) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+n.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// TestEveryMethod calls every method that the service descriptors name on a real daemon: those of a pod and a container with real
// ones. Only checkpoints are not implemented.
func TestEveryMethod(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	ref := registry.Ref(t, "busybox:1")
	n.Pull(ref)
	pc := n.HostPodConfig()
	pod := n.RunPod(pc)
	ctr := n.Run(pod, pc, n.ContainerConfig(ref, "sleep", "1000"))
	again := n.ContainerConfig(ref, "true")
	again.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	image := &runtimeapi.ImageSpec{Image: ref}

	// In this order; what is not in here is called afterwards, with an empty request.
	type call struct {
		method string
		req    proto.Message
	}
	calls := []call{
		{"Version", &runtimeapi.VersionRequest{}},
		{"Status", &runtimeapi.StatusRequest{Verbose: true}},
		{"RuntimeConfig", &runtimeapi.RuntimeConfigRequest{}},
		{"UpdateRuntimeConfig", &runtimeapi.UpdateRuntimeConfigRequest{}},
		{"RunPodSandbox", &runtimeapi.RunPodSandboxRequest{Config: pc}},
		{"PodSandboxStatus", &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod, Verbose: true}},
		{"ListPodSandbox", &runtimeapi.ListPodSandboxRequest{}},
		{"StreamPodSandboxes", &runtimeapi.StreamPodSandboxesRequest{}},
		{"CreateContainer", &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: again, SandboxConfig: pc}},
		{"ListContainers", &runtimeapi.ListContainersRequest{}},
		{"StreamContainers", &runtimeapi.StreamContainersRequest{}},
		{"ContainerStatus", &runtimeapi.ContainerStatusRequest{ContainerId: ctr, Verbose: true}},
		{"UpdateContainerResources", &runtimeapi.UpdateContainerResourcesRequest{ContainerId: ctr, Linux: &runtimeapi.LinuxContainerResources{CpuShares: 512}}},
		{"ReopenContainerLog", &runtimeapi.ReopenContainerLogRequest{ContainerId: ctr}},
		{"ExecSync", &runtimeapi.ExecSyncRequest{ContainerId: ctr, Cmd: []string{"true"}, Timeout: 10}},
		{"Exec", &runtimeapi.ExecRequest{ContainerId: ctr, Cmd: []string{"true"}, Stdout: true}},
		{"Attach", &runtimeapi.AttachRequest{ContainerId: ctr, Stdout: true}},
		{"PortForward", &runtimeapi.PortForwardRequest{PodSandboxId: pod}},
		{"ContainerStats", &runtimeapi.ContainerStatsRequest{ContainerId: ctr}},
		{"ListContainerStats", &runtimeapi.ListContainerStatsRequest{}},
		{"StreamContainerStats", &runtimeapi.StreamContainerStatsRequest{}},
		{"PodSandboxStats", &runtimeapi.PodSandboxStatsRequest{PodSandboxId: pod}},
		{"ListPodSandboxStats", &runtimeapi.ListPodSandboxStatsRequest{}},
		{"StreamPodSandboxStats", &runtimeapi.StreamPodSandboxStatsRequest{}},
		{"ListMetricDescriptors", &runtimeapi.ListMetricDescriptorsRequest{}},
		{"ListPodSandboxMetrics", &runtimeapi.ListPodSandboxMetricsRequest{}},
		{"StreamPodSandboxMetrics", &runtimeapi.StreamPodSandboxMetricsRequest{}},
		{"UpdatePodSandboxResources", &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: pod, Resources: &runtimeapi.LinuxContainerResources{CpuShares: 512}}},
		{"PullImage", &runtimeapi.PullImageRequest{Image: image}},
		{"ImageStatus", &runtimeapi.ImageStatusRequest{Image: image, Verbose: true}},
		{"ListImages", &runtimeapi.ListImagesRequest{}},
		{"StreamImages", &runtimeapi.StreamImagesRequest{}},
		{"ImageFsInfo", &runtimeapi.ImageFsInfoRequest{}},
		{"StopContainer", &runtimeapi.StopContainerRequest{ContainerId: ctr}},
		{"RemoveContainer", &runtimeapi.RemoveContainerRequest{ContainerId: ctr}},
		{"StopPodSandbox", &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod}},
		{"RemovePodSandbox", &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod}},
		{"RemoveImage", &runtimeapi.RemoveImageRequest{Image: image}},
	}
	fails := []string{"StartContainer"} // of no container, with an empty request
	never := []string{"GetContainerEvents"}
	missing := []string{"CheckpointContainer", "CheckpointPod", "RestorePod"}

	conn := dial(t, n)
	results := map[string]codes.Code{}
	methods := map[string]string{} // full names
	services := runtimeapi.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto.Services()
	answers := map[string]func() proto.Message{}
	for i := range services.Len() {
		for j := range services.Get(i).Methods().Len() {
			m := services.Get(i).Methods().Get(j)
			name := string(m.Name())
			methods[name] = "/" + string(services.Get(i).FullName()) + "/" + name
			in, err1 := protoregistry.GlobalTypes.FindMessageByName(m.Input().FullName())
			out, err2 := protoregistry.GlobalTypes.FindMessageByName(m.Output().FullName())
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			answers[name] = func() proto.Message { return out.New().Interface() }
			if !slices.ContainsFunc(calls, func(c call) bool { return c.method == name }) {
				calls = append(calls, call{name, in.New().Interface()})
			}
		}
	}
	for _, c := range calls {
		limit := 20 * time.Second
		if slices.Contains(never, c.method) {
			limit = 200 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, methods[c.method])
		if err == nil {
			_ = stream.SendMsg(c.req)
			_ = stream.CloseSend()
			err = stream.RecvMsg(answers[c.method]())
		}
		cancel()
		code := status.Code(err)
		results[c.method] = code
		switch {
		case slices.Contains(missing, c.method):
			if code != codes.Unimplemented {
				t.Errorf("%s: %v, want Unimplemented", c.method, err)
			}
		case slices.Contains(never, c.method):
			if code != codes.DeadlineExceeded {
				t.Errorf("%s has ended with %v", c.method, err)
			}
		case slices.Contains(fails, c.method):
			if code == codes.Unimplemented || code == codes.OK {
				t.Errorf("%s: %v", c.method, err)
			}
		case err != nil:
			t.Errorf("%s: %v", c.method, err)
		}
	}
	if left := n.Log(); strings.Contains(left, "Panic") {
		t.Errorf("a call has panicked: %s", left)
	}
	if len(results) != len(methods) {
		t.Errorf("%d of %d methods called", len(results), len(methods))
	}
	t.Logf("%d methods called", len(results))
}
