// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/pkg/task"
)

// Reasons of a container's exit. The kubelet knows OOMKilled by name (api.proto demands it); people know the others from every
// runtime there is.
const (
	reasonCompleted = "Completed"
	reasonError     = "Error"
	reasonOOMKilled = "OOMKilled"
	reasonUnknown   = "Unknown"
)

func exitReason(e *task.Exit) string {
	switch {
	case e == nil || !e.Known:
		return reasonUnknown
	case e.OOM:
		return reasonOOMKilled
	case e.Code() == 0:
		return reasonCompleted
	default:
		return reasonError
	}
}

// exitMessage says in a sentence what an exit code cannot: which signal a process died of, and who sent it. It is empty for a
// process that exited by itself.
func exitMessage(e *task.Exit) string {
	switch {
	case e == nil || !e.Known:
		return "the process is gone and left no record of its exit"
	case !e.Wait.Signaled():
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "killed by %s", signalName(e.Wait.Signal()))
	switch k := e.Killer; {
	case e.OOM:
		b.WriteString(" from the kernel, out of memory")
	case k == nil:
	case k.Kernel:
		b.WriteString(" from the kernel")
	default:
		fmt.Fprintf(&b, " from pid %d", k.Pid)
		if comm := printable(k.Comm); comm != "" {
			fmt.Fprintf(&b, " (%s)", comm)
		}
		fmt.Fprintf(&b, ", uid %d", k.UID)
	}
	if e.Killer != nil && !e.Killer.At.IsZero() {
		fmt.Fprintf(&b, ", at %s", e.Killer.At.UTC().Format(time.RFC3339Nano))
	}
	if e.Wait.CoreDump() {
		b.WriteString(", core dumped")
	}
	return b.String()
}

func signalName(s unix.Signal) string {
	if name := unix.SignalName(s); name != "" {
		return name
	}
	return fmt.Sprintf("signal %d", int(s)) // real-time signals have no names
}

// printable makes a comm fit to be read: a process names itself, with any bytes it likes.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// text makes a string fit for a protobuf message. What is not UTF-8 in one container's message would otherwise fail the encoding
// of the whole answer.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
