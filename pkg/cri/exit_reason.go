// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/pkg/exitbpf"
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

// exitMessage says in a sentence what an exit code cannot: which signal a process died of, and who sent it. For a process that
// exited by itself it is empty, unless the kernel killed others of the container for lack of memory: the usual story behind a shell
// that exits with 137, which is not OOMKilled itself.
func exitMessage(e *task.Exit) string {
	switch {
	case e == nil || !e.Known:
		return "the process is gone and left no record of its exit"
	case !e.Wait.Signaled() && e.OOMKills > 0:
		return fmt.Sprintf("exited by itself; out of memory, the kernel had killed %s in the container", processCount(e.OOMKills))
	case !e.Wait.Signaled():
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "killed by %s", task.SignalName(e.Wait.Signal()))
	switch k := e.Killer; {
	case e.OOM:
		b.WriteString(" from the kernel, out of memory")
	case k == nil:
	case k.Kernel && e.Wait.Signal() == unix.SIGSYS:
		b.WriteString(" from the kernel, system call forbidden by seccomp")
	case k.Kernel:
		b.WriteString(" from the kernel")
	default:
		fmt.Fprintf(&b, " from %s, uid %d", sender(k), k.UID)
		if e.ByOwn() {
			b.WriteString(", in the container itself")
		}
	}
	if e.Killer != nil && !e.Killer.At.IsZero() {
		fmt.Fprintf(&b, ", at %s", e.Killer.At.UTC().Format(time.RFC3339Nano))
	}
	if e.Wait.CoreDump() {
		b.WriteString(", core dumped")
	}
	return b.String()
}

// sender names a process: pid 4242 (stress-ng). A pid of 0 is one that cannot be seen from the daemon's pid namespace.
func sender(k *exitbpf.Sender) string {
	who := fmt.Sprintf("pid %d", k.Pid)
	if k.Pid == 0 {
		who = "a process of another pid namespace"
	}
	if comm := printable(k.Comm); comm != "" {
		who += " (" + comm + ")"
	}
	return who
}

func processCount(n uint64) string {
	if n == 1 {
		return "1 process"
	}
	return fmt.Sprintf("%d processes", n)
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
