// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/containerd/errdefs"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// StreamingOptions configures the HTTP server behind Exec, Attach and PortForward. Its clients are the kubelet (for kubectl) and
// crictl, both on this machine.
type StreamingOptions struct {
	// Address is host:port to listen on. Empty is 127.0.0.1:0, a free port on loopback. The token in the URL is the only check of
	// a client, so any other address should come with TLS.
	Address string
	// TLS, if set, makes the server speak HTTPS. Client certificates are checked if it says so.
	TLS *tls.Config
	// TokenTTL is how long a client has to come for its session. 0 is 1 minute.
	TokenTTL time.Duration
	// IdleTimeout ends sessions over which nothing has gone in either direction. 0 is 4 hours, the kubelet's own default.
	IdleTimeout time.Duration
}

// maxWaiting bounds the sessions whose clients have not come yet. Each is a few hundred bytes.
const maxWaiting = 1000

type sessionKind string

const (
	execSession        sessionKind = "exec"
	attachSession      sessionKind = "attach"
	portForwardSession sessionKind = "portforward"
)

// session is what a token stands for: one request, with its object's full id.
type session struct {
	kind  sessionKind
	id    string // of a container; of a pod for port-forward
	cmd   []string
	opts  remotecommand.Options
	ports []int32
}

func streamsOf(r streamsRequest) remotecommand.Options {
	return remotecommand.Options{Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(), TTY: r.GetTty()}
}

// finder finds the object of a session when its client comes. *Server is one.
type finder interface {
	pod(id string) (pod, error)
	container(id string) (container, error)
}

// streamServer serves sessions over HTTP. The protocols are cri-streaming's; tokens, connections and dispatch are our own because
// that module's Server has three gaps: its URLs name the configured port until it serves, it cannot tell a session that its client
// is gone, and it does not know the two WebSocket protocols that client-go speaks (websocket.go, tunnel.go).
type streamServer struct {
	find   finder
	tokens *tokens
	idle   time.Duration
	base   *url.URL
	conns  *connListener
	http   *http.Server
	tls    bool
}

func newStreamServer(o StreamingOptions, find finder) (*streamServer, error) {
	if o.Address == "" {
		o.Address = "127.0.0.1:0"
	}
	if o.TokenTTL == 0 {
		o.TokenTTL = time.Minute
	}
	if o.IdleTimeout == 0 {
		o.IdleTimeout = 4 * time.Hour
	}
	l, err := net.Listen("tcp", o.Address)
	if err != nil {
		return nil, err
	}
	s := &streamServer{
		find:   find,
		tokens: newTokens(o.TokenTTL, maxWaiting),
		idle:   o.IdleTimeout,
		base:   &url.URL{Scheme: "http", Host: l.Addr().String()},
		conns:  newConnListener(l),
		tls:    o.TLS != nil,
	}
	if host, _, err := net.SplitHostPort(o.Address); err == nil && host != "" && net.ParseIP(host) == nil {
		// A name was configured, maybe the one in the certificate: keep it, with the port that we got.
		_, port, _ := net.SplitHostPort(s.base.Host)
		s.base.Host = net.JoinHostPort(host, port)
	}
	mux := http.NewServeMux()
	for _, kind := range []sessionKind{execSession, attachSession, portForwardSession} {
		// No method in the pattern: SPDY clients upgrade a POST, WebSocket clients a GET.
		mux.HandleFunc("/"+string(kind)+"/{token}", func(w http.ResponseWriter, r *http.Request) { s.serveSession(w, r, kind) })
	}
	s.http = &http.Server{
		Handler:           mux,
		TLSConfig:         o.TLS.Clone(),
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       time.Minute, // of connections that were not upgraded
		ConnContext:       connContext,
		Protocols:         new(http.Protocols),
	}
	s.http.Protocols.SetHTTP1(true) // HTTP/2 has no upgrade to SPDY or WebSocket
	if s.tls {
		s.base.Scheme = "https"
	}
	return s, nil
}

// offer keeps a session for its client and returns the URL to send it to.
func (s *streamServer) offer(sn session) (string, error) {
	token, err := s.tokens.put(sn)
	if err != nil {
		return "", err
	}
	return s.base.JoinPath(string(sn.kind), token).String(), nil
}

// serve serves until close. It returns nil then.
func (s *streamServer) serve(logger klog.Logger) error {
	s.http.BaseContext = baseContext(logger)
	s.http.ErrorLog = log.New(errorLog{logger}, "", 0)
	var err error
	if s.tls {
		err = s.http.ServeTLS(s.conns, "", "")
	} else {
		err = s.http.Serve(s.conns)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("streaming server: %w", err)
}

// close stops listening and cuts every session: http.Server knows only the connections that have not been upgraded.
func (s *streamServer) close() {
	_ = s.http.Close()
	s.conns.closeAll()
}

func (s *streamServer) serveSession(w http.ResponseWriter, r *http.Request, kind sessionKind) {
	sn, ok := s.tokens.take(r.PathValue("token"), kind)
	if !ok {
		http.Error(w, "this session is unknown, has been used, or has expired", http.StatusNotFound)
		return
	}
	if kind == portForwardSession {
		s.servePortForward(w, r, sn)
		return
	}
	c, err := s.find.container(sn.id)
	if err != nil {
		httpError(w, err)
		return
	}
	if wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) {
		s.serveWebSocketV5(w, r, c, sn)
		return
	}
	rt := processes{c, sn.opts}
	opts, creation := sn.opts, remotecommand.DefaultStreamCreationTimeout
	if kind == execSession {
		remotecommand.ServeExec(w, r, rt, "", "", sn.id, sn.cmd, &opts, s.idle, creation, remotecommand.SupportedStreamingProtocols)
	} else {
		remotecommand.ServeAttach(w, r, rt, "", "", sn.id, &opts, s.idle, creation, remotecommand.SupportedStreamingProtocols)
	}
}

func (s *streamServer) servePortForward(w http.ResponseWriter, r *http.Request, sn session) {
	p, err := s.find.pod(sn.id)
	if err != nil {
		httpError(w, err)
		return
	}
	if wsstream.IsWebSocketRequestWithTunnelingProtocol(r) {
		s.serveTunnel(w, r, p, sn)
		return
	}
	portforward.ServePortForward(w, r, ports{p, r.Context()}, sn.id, "", &portforward.V4Options{Ports: sn.ports},
		s.idle, remotecommand.DefaultStreamCreationTimeout, portforward.SupportedProtocols)
}

// httpError answers a client whose session's object has gone between its call and its coming.
func httpError(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	if errdefs.IsNotFound(err) {
		code = http.StatusNotFound
	}
	http.Error(w, err.Error(), code)
}
