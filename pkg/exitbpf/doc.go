// SPDX-License-Identifier: Apache-2.0

// Package exitbpf tells how processes ended: exactly, whoever was their parent,
// and even if nobody was there to hear of it.
//
//	Watch ──reserves──▶ slot in a pinned BPF map ◀──writes── sched_process_exit, in the kernel
//	                          │                  ◀──notes─── signal_generate: who sent it
//	pidfd readable ──▶ loop ──┴─ reads, reaps, compares ──▶ Done closed
//
// It owns bpf/exit.bpf.c, everything under its directory of a BPF file system,
// and the reaping of what it watches. It knows nothing of containers.
//
// # What it guarantees
//
//   - Record before wake-up. The tracepoint runs in do_exit() before
//     exit_notify(), which is what makes a pidfd readable. Who hears of a death
//     finds it written down (TestTruth).
//   - Once per process. A thread's end is not its process' end, not even the
//     first thread's: the programs act when signal->live is 0. The status is
//     wait(2)'s: the group exit code, or the leader's where the kernel is older
//     than 6.0 (TestLeaderLeavesFirst, TestNonLeaderExec, TestSpecialDeaths).
//   - It cannot fail in the kernel. Watch reserves the slot, in a preallocated
//     map; at death BPF writes into memory that is there. A full map is ErrFull
//     from Watch, before anything can be lost. A slot is free again when Forget
//     says that the exit is stored elsewhere (Conformance: full).
//   - Not fooled by pid reuse. A slot is named by pid, start time and pid
//     namespace. Not by task storage: when a thread that is not the first calls
//     execve(2) the process goes on in another task_struct, and de_thread()
//     copies both pid and start time to it, but no storage. Signals go through
//     pidfds only (TestLost).
//   - Not fooled by pid namespaces. In a container of its own the daemon sees
//     other numbers than the kernel's first namespace; slots are named by those
//     the daemon sees (TestNestedDaemon).
//   - It survives. Maps and links are pinned; with the daemon dead the kernel
//     goes on recording, and the next daemon's Watch is the same call as the
//     first one's (TestDaemonKilled). Each Open loads its own programs, attaches
//     them before it detaches the old ones, moves records to another layout or
//     capacity in the same manner, and heals what a crash in the middle left
//     (TestExitsWhileReopening, TestHealing, TestOtherLayout).
//   - It does not guess. An exit that no source knows is ErrLost: never 0, never
//     137. Bytes in a slot that wait(2) could not have reported are ErrLost too
//     (TestSlotExit, FuzzSlot).
//   - One layout. The Go structs are compared with the object's BTF (TestLayout).
//
// # Execs: no barrier, no wrapper
//
// An OCI runtime parks a container's init, but not an exec's process, which may
// be dead before its pid is known. So the programs also write down the exits of
// processes nobody watches, if they are children of the daemon, or of a child of
// the daemon that is not watched itself: an exec is one or the other, before and
// after its runtime has left and the daemon, a child subreaper, has inherited it.
// These go into a small LRU map, recent. The corpse stays until the daemon reaps
// it, so its start time is still to be read: Watch registers first and then looks
// there. Whoever else reaps orphans must leave alone what an exec in flight
// could be. Killer is not known for these: signals are only looked at for
// processes that are watched.
//
// # Who killed it
//
// A signal's sender is noted when it is queued, in the sender's own context and
// under the target's lock: pid, user, name and cgroup are the kernel's, not what
// a siginfo claims. Signals that were ignored, blocked twice or came too late do
// not count. Two senders are kept for each process, of the first SIGKILL and of
// the last other signal that could be fatal; at the end the one whose signal the
// process died of is shown. OOM is signal->oom_mm, the kernel's own mark, if
// nobody else's SIGKILL came first.
//
// # Sources
//
// In the order in which they are believed: the slot; recent; waitid(2) for our
// own children; exit_code in /proc/<pid>/stat of a corpse; PIDFD_GET_INFO of a
// reaped process (Linux 6.15), which tells the first thread's code and is wrong
// where that one left early. A status from any but the first is put into the slot
// before the process is reaped. Where both the slot and waitid know, they are
// compared, and Stats says how often they disagreed.
//
// Without BPF (no BTF, no capability, lockdown) the last three remain: Mode says
// so and why. What ends while the daemon is away is then lost unless its corpse
// is still there.
//
// # Limits
//
// Linux 5.12 for BPF's atomic instructions. If the BPF file system is mounted by
// Open in a mount namespace of the daemon's own, pins go when that does. A new
// daemon in another pid namespace does not recognise its predecessor's slots.
// Memory: SlotMemory bytes a slot, allocated by Open.
package exitbpf
