// SPDX-License-Identifier: Apache-2.0

// Package keeper is the one small process per node that holds file descriptors while the daemon
// is away, and the daemon's end of the conversation with it. It knows names and descriptors and
// nothing else: what they mean is the daemon's business.
//
// The process is the daemon's own program, executed again, in a session of its own. It is never
// stopped by a restart or an update of the daemon; it ends when its socket is removed, when it
// is asked to, or at SIGTERM. The lock file beside the socket sees to it that there is one.
package keeper
