// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/websocket"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// tunnelPrefix is before a port-forward protocol that a client speaks in SPDY inside a WebSocket. It is how client-go's WebSocket
// port-forward works: channels cannot say "end of data" and are fixed at the start, SPDY streams can and are not.
const tunnelPrefix = "SPDY/3.1+"

// serveTunnel serves such a session: it takes the WebSocket, and gives cri-streaming its inside as if it were a connection that
// has just been upgraded to SPDY.
func (s *streamServer) serveTunnel(w http.ResponseWriter, r *http.Request, p pod, sn session) {
	websocket.Server{
		Handshake: func(c *websocket.Config, _ *http.Request) error {
			for _, offered := range c.Protocol {
				inner, ok := strings.CutPrefix(offered, tunnelPrefix)
				if ok && slices.Contains(portforward.SupportedProtocols, inner) {
					c.Protocol = []string{offered}
					return nil
				}
			}
			return fmt.Errorf("protocols %q are not known", c.Protocol)
		},
		Handler: func(ws *websocket.Conn) {
			ws.PayloadType = websocket.BinaryFrame
			inner := r.Clone(r.Context())
			inner.Method = http.MethodPost
			inner.Header = http.Header{
				httpstream.HeaderConnection:      {httpstream.HeaderUpgrade},
				httpstream.HeaderUpgrade:         {spdy.HeaderSpdy31},
				httpstream.HeaderProtocolVersion: {strings.TrimPrefix(ws.Config().Protocol[0], tunnelPrefix)},
			}
			portforward.ServePortForward(&tunnelWriter{ws: ws, log: klog.FromContext(r.Context())}, inner, ports{p, r.Context()}, sn.id, "",
				&portforward.V4Options{}, s.idle, remotecommand.DefaultStreamCreationTimeout, portforward.SupportedProtocols)
		},
	}.ServeHTTP(w, r)
}

// tunnelWriter is the response to the request inside a tunnel, which nobody reads: the client has its answer already.
type tunnelWriter struct {
	ws     *websocket.Conn
	log    klog.Logger
	header http.Header
}

func (t *tunnelWriter) Header() http.Header {
	if t.header == nil {
		t.header = make(http.Header)
	}
	return t.header
}

func (t *tunnelWriter) WriteHeader(int) {}

func (t *tunnelWriter) Write(b []byte) (int, error) {
	t.log.Info("Tunnelled port-forward", "err", string(b))
	return 0, errors.New("there is no response inside a tunnel")
}

// Hijack implements http.Hijacker.
func (t *tunnelWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return t.ws, bufio.NewReadWriter(bufio.NewReader(t.ws), bufio.NewWriter(t.ws)), nil
}
