// SPDX-License-Identifier: Apache-2.0

// Package cri is the daemon's edge: the gRPC services RuntimeService and ImageService of k8s.io/cri-api (v0.37), and the HTTP
// server behind Exec, Attach and PortForward. It checks what comes in, calls the layer below once, and turns what comes back into
// messages and gRPC codes. It holds no state of pods or containers, takes no lock of theirs, and knows neither runc nor disk.
//
//	kubelet ──gRPC──► interceptor ──► validate ──► pkg/sandbox, pkg/image
//	   │                (id, log line, latency, panic, error → code)
//	   └──SPDY / WebSocket──► streamServer ──token──► Container.Exec / Attach, Pod.Dial
//
// # Rules
//
//   - One CRI call, one file. A handler validates, finds the object, calls it, converts. Longer ones have their work elsewhere.
//   - Errors keep their errdefs class on the way up; only toStatus (errors.go) knows gRPC codes, and only the interceptor calls it.
//   - Stop and Remove of something that is not there succeed; Status of it is NotFound (api.proto says so, call by call).
//   - List and Status read snapshots. Nothing here waits for another call, so that the kubelet's relist stays as fast as ever
//     while a runtime hangs.
//   - One log line for each call, written by the interceptor: method, ids, duration, code. Requests are never logged: they hold
//     environments and registry credentials.
//
// # Streaming
//
// Exec, Attach and PortForward hand out a URL with a token that works once and for a minute. The HTTP server behind it listens on
// loopback unless told otherwise; the protocols (SPDY, and WebSocket up to v4) are those of k8s.io/cri-streaming, and websocket.go
// and tunnel.go add what client-go speaks and that module leaves out (v5, and SPDY inside a WebSocket). A client
// that goes away cancels the context of what it started.
package cri
