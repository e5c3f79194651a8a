// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	utilexec "k8s.io/utils/exec"
)

// serveWebSocketV5 serves an exec or an attach over v5.channel.k8s.io: v4 plus a signal by which the client ends its stdin, without
// which "tar | kubectl exec -i" never ends. wsstream knows the signal; cri-streaming does not offer the protocol, and its status
// types are its own, so the little that is missing is here.
func (s *streamServer) serveWebSocketV5(w http.ResponseWriter, r *http.Request, c container, sn session) {
	channels := []wsstream.ChannelType{
		remotecommand.StreamStdIn:  channel(sn.opts.Stdin, wsstream.ReadChannel),
		remotecommand.StreamStdOut: channel(sn.opts.Stdout, wsstream.WriteChannel),
		remotecommand.StreamStdErr: channel(sn.opts.Stderr, wsstream.WriteChannel),
		remotecommand.StreamErr:    wsstream.WriteChannel,
		remotecommand.StreamResize: wsstream.ReadChannel,
	}
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{
		remotecommand.StreamProtocolV5Name: {Binary: true, Channels: channels},
	})
	conn.SetIdleTimeout(s.idle)
	_, streams, err := conn.Open(w, r)
	if err != nil {
		klog.FromContext(r.Context()).Info("WebSocket upgrade", "container", sn.id, "err", err)
		return
	}
	defer conn.Close()

	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	resize := make(chan remotecommand.TerminalSize)
	go decodeSizes(ctx, streams[remotecommand.StreamResize], resize)

	// An empty message tells the client that it is connected, before the container has anything to say.
	_, _ = streams[remotecommand.StreamErr].Write(nil)

	in, out, errOut := streams[remotecommand.StreamStdIn], streams[remotecommand.StreamStdOut], streams[remotecommand.StreamStdErr]
	if p := (processes{c, sn.opts}); sn.kind == execSession {
		err = p.ExecInContainer(ctx, "", "", sn.id, sn.cmd, in, out, errOut, sn.opts.TTY, resize, 0)
	} else {
		err = p.AttachContainer(ctx, "", "", sn.id, in, out, errOut, sn.opts.TTY, resize)
	}
	_, _ = streams[remotecommand.StreamErr].Write(streamStatus(err))
}

func channel(wanted bool, t wsstream.ChannelType) wsstream.ChannelType {
	if wanted {
		return t
	}
	return wsstream.IgnoreChannel
}

// decodeSizes reads terminal sizes, JSON one after the other, until the client or the session ends.
func decodeSizes(ctx context.Context, r io.Reader, out chan<- remotecommand.TerminalSize) {
	defer close(out)
	for d := json.NewDecoder(r); ; {
		var size remotecommand.TerminalSize
		if d.Decode(&size) != nil {
			return
		}
		select {
		case out <- size:
		case <-ctx.Done():
			return
		}
	}
}

// streamStatus is how a session ended, for the client's error channel: a metav1.Status in JSON, of which clients read the status,
// the message, and for an exit code the reason and one cause (client-go, remotecommand/v4.go).
func streamStatus(err error) []byte {
	type cause struct {
		Type    string `json:"reason"`
		Message string `json:"message"`
	}
	type details struct {
		Causes []cause `json:"causes"`
	}
	st := struct {
		Status  string   `json:"status"`
		Message string   `json:"message,omitempty"`
		Reason  string   `json:"reason,omitempty"`
		Details *details `json:"details,omitempty"`
		Code    int      `json:"code,omitempty"`
	}{Status: "Success"}
	var exit utilexec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit) && exit.Exited():
		st.Status = "Failure"
		st.Message = "command terminated with non-zero exit code: " + exit.Error()
		st.Reason = remotecommand.NonZeroExitCodeReason
		st.Details = &details{Causes: []cause{{remotecommand.ExitCodeCauseType, strconv.Itoa(exit.ExitStatus())}}}
	default:
		st.Status, st.Message, st.Reason, st.Code = "Failure", err.Error(), "InternalError", http.StatusInternalServerError
	}
	b, err := json.Marshal(st)
	if err != nil {
		return nil // strings and numbers always marshal
	}
	return b
}
