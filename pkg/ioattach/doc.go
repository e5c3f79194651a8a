// SPDX-License-Identifier: Apache-2.0

// Package ioattach owns the standard streams of processes: their pipes or terminal, the CRI log,
// attached clients, and all of it across a restart of the daemon. It does not know what a
// container is; a process's streams have a directory, and that is their name.
//
// # The way of a byte
//
//	process ── FIFO ──splice──▶ staging ──read──▶ buf ──┬─ frame ──write──▶ log file
//	            │                pipe           (shared │
//	            │                 └── lane ──────────┘  └─ copy ──▶ client queues ──▶ clients
//	process ◀── FIFO ◀──────────── attach clients' stdin
//	process ◀═▶ pty slave ═ master, in place of all three FIFOs
//
// One Hub serves all streams: an epoll set, a few reader threads, a few lanes (lane.go). An idle
// stream costs a file descriptor and a small struct, no goroutine and no buffer. A stream that
// becomes readable goes to one reader (EPOLLONESHOT keeps it in order), which borrows a lane,
// takes up to 256 KiB and makes one write(2) of whole lines of it. Sources that go on writing are
// read when most of a batch has come together, every 10 ms at the least, instead of at each of
// their writes (pace.go).
//
// # What holds
//
//   - A line is in the log once, in order and whole, even if the daemon is killed at any
//     instruction: the phases in lane.go say why, record.go keeps the rest of a line that has not
//     ended. It holds for the pty as well. It rests on the keeper, which has the staging pipes; a
//     SIGKILL of daemon and keeper together loses what was in a staging pipe, at most 256 KiB a
//     reader.
//   - Log lines of the two streams never mix. The parts (P) of a line over 16 KiB may have lines
//     of the other stream between them.
//   - Nothing waits for a client, except an exec for its only one. A client that lags more than
//     HubOptions.ClientBuffer is cut.
//   - A log file that cannot be written to does not stop the process: what is dropped is counted
//     (Hub.Stats), only whole lines are dropped, and every later batch tries again. A file system
//     that hangs, though, holds up one reader for as long, and ReopenLog of that log; the other
//     readers go on.
//   - A process never gets EPIPE or SIGHUP because the daemon is away: its ends of the pipes are
//     open for reading as well, the keeper has our ends and the pty master. It waits once its
//     pipe (1 MiB where allowed) is full.
//   - Every descriptor is close-on-exec.
//
// # Life of streams
//
//	Create ─▶ Stdio ─▶ (runtime create) ─▶ Started ─▶ Attach, Resize, ReopenLog ... ─▶ Drain ─▶ Remove
//	                                          ▲
//	Load ─────────────────────────────────────┘   Close at any time: only this daemon lets go
//
// Before Started our copies of the process's ends keep the streams from ending. After it the end
// of a stream is seen at once, but only Drain, called when the process is dead, makes Drained
// close: a stream may be closed by a process that lives on, or held by one that outlives it.
//
// # Files
//
//	<dir>/stdin stdout stderr   FIFOs, mode 0600, owned by the process's user
//	<dir>/record                what must survive us: rests of lines, "stdin is closed"
//	<hub dir>/lane-N[.pipe]     lanes: journal and buffer, staging pipe
//	<hub dir>/lock tty-*        one daemon at a time; console sockets, while a runtime creates
//
// # The keeper
//
// Keeper (keeper.go) holds descriptors under their path: the reading ends of stdout and stderr,
// the writing end of stdin, pty masters, staging pipes. internal/keeper is one small process per
// node: the daemon's own program again, in a session of its own, about 1 MiB of memory of its
// own. If it dies the daemon starts another and hands everything over. It also opens the FIFO that
// a container's init is parked at (Hub.OpenHeld): init must find a reader, whatever the daemon
// that lifts the barrier dies of meanwhile.
//
// # Lock order
//
//	Streams.starting → Streams.mu
//	source.mu → logFile.mu
//	source.mu → Streams.mu → client.mu → Hub.mu
//	Streams.mu → Hub.heldMu
//	source.mu → Hub.paceMu
//
// source.mu is held for a batch, so it may be held for as long as a disk hangs: nobody but the
// readers and Drain's own goroutine waits for it. A lane is borrowed under source.mu.
package ioattach
