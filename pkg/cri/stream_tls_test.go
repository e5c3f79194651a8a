// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/pkg/sandbox"
)

func TestTLS(t *testing.T) {
	borrowed := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
	defer borrowed.Close()
	for name, executor := range transports {
		t.Run(name, func(t *testing.T) {
			pods, _, c := node()
			rt, _, _, _ := serve(t, pods, &fakeImages{}, func(o *Options) {
				o.Streaming.TLS = &tls.Config{Certificates: borrowed.TLS.Certificates, NextProtos: []string{"h2", "http/1.1"}}
				o.Streaming.Address = "localhost:0"
			})
			c.exec = func(_ context.Context, r sandbox.ExecRequest) (int32, error) {
				_, err := io.WriteString(r.Stdout, "hello")
				return 0, err
			}
			resp, err := rt.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: ctrID, Cmd: []string{"x"}, Stdout: true})
			if err != nil {
				t.Fatal(err)
			}
			if u := parse(t, resp.Url); u.Scheme != "https" || u.Hostname() != "localhost" || u.Port() == "0" {
				t.Errorf("URL %s", resp.Url)
			}
			var out bytes.Buffer
			config := &restclient.Config{TLSClientConfig: restclient.TLSClientConfig{Insecure: true}}
			if err := executor(t, resp.Url, config).StreamWithContext(within(t), remotecommand.StreamOptions{Stdout: &out}); err != nil || out.String() != "hello" {
				t.Errorf("%q, %v", out.String(), err)
			}
		})
	}
}
