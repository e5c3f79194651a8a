// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/reflect/protoregistry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestUnimplemented calls every method of both services with an empty request, and pins what is left for later, so that a call
// cannot be forgotten, nor lost.
func TestUnimplemented(t *testing.T) {
	pods, p, _ := node()
	pods.run = func(context.Context, *runtimeapi.PodSandboxConfig, string) (pod, error) { return p, nil }
	s, err := newServer(Options{Version: "1"}, pods, &fakeImages{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	l := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	conn := dialBuf(t, l)
	defer func() { _ = conn.Close(); cancel(); <-served }()

	var got []string
	services := runtimeapi.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto.Services()
	for i := range services.Len() {
		for j := range services.Get(i).Methods().Len() {
			m := services.Get(i).Methods().Get(j)
			in, err1 := protoregistry.GlobalTypes.FindMessageByName(m.Input().FullName())
			out, err2 := protoregistry.GlobalTypes.FindMessageByName(m.Output().FullName())
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			patience := time.Minute
			if m.Name() == "GetContainerEvents" {
				patience = 50 * time.Millisecond // it never ends
			}
			ctx, cancel := context.WithTimeout(ctx, patience)
			st, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/"+string(services.Get(i).FullName())+"/"+string(m.Name()))
			if err == nil {
				_ = st.SendMsg(in.New().Interface())
				_ = st.CloseSend()
				err = st.RecvMsg(out.New().Interface())
			}
			cancel()
			if status.Code(err) == codes.Unimplemented {
				got = append(got, string(m.Name()))
			}
		}
	}
	slices.Sort(got)
	if later := []string{"CheckpointContainer", "CheckpointPod", "RestorePod"}; !slices.Equal(got, later) {
		t.Errorf("not implemented: %q, want %q", got, later)
	}
}
