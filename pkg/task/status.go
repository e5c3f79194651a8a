// SPDX-License-Identifier: Apache-2.0

package task

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/pkg/exitbpf"
)

// Status is what is known of a task. It is a value: whoever gets one may keep it.
type Status struct {
	State      State     `json:"state"`
	Pid        int       `json:"pid,omitempty"` // of init in the daemon's pid namespace; 0 if there was never one
	Paused     bool      `json:"paused,omitempty"`
	CreatedAt  time.Time `json:"createdAt,omitzero"`
	StartedAt  time.Time `json:"startedAt,omitzero"`  // zero if never started
	FinishedAt time.Time `json:"finishedAt,omitzero"` // the kernel's time of death
	Exit       *Exit     `json:"exit,omitempty"`      // nil until Exited
	Reason     string    `json:"reason,omitempty"`    // a word for the CRI, where the task knows better than the exit status
	Message    string    `json:"message,omitempty"`   // a sentence for people

	BootID     string      `json:"bootID,omitempty"`     // /proc/sys/kernel/random/boot_id when the process was made: pids of another boot mean nothing
	PidStart   uint64      `json:"pidStart,omitempty"`   // start time of Pid, field 22 of /proc/<pid>/stat: within a boot, a pid with another one is a stranger
	Parked     string      `json:"parked,omitempty"`     // command line of init while it waits at the barrier; empty from Running on
	StartError *StartError `json:"startError,omitempty"` // known at creation: there is no program to start
	MidStart   bool        `json:"midStart,omitempty"`   // init's exit overtook the end of a start that had begun; cleared by that end
	Stop       *StopIntent `json:"stop,omitempty"`       // a stop that has begun; a restarted daemon goes on with it
}

// StopIntent is a stop that has been asked for.
type StopIntent struct {
	Signal   unix.Signal   `json:"signal"`
	Grace    time.Duration `json:"grace"`             // as asked by the call that set Deadline
	Deadline time.Time     `json:"deadline"`          // when SIGKILL is sent
	Sent     bool          `json:"sent,omitempty"`    // Signal has been sent: many programs take a second one for "hurry"
	Forced   bool          `json:"forced,omitempty"`  // SIGKILL has been, or is being, sent
	Senders  []int         `json:"senders,omitempty"` // pids of the daemons that had a hand in it, to know their signals in an exit record
}

// with returns a copy of i that change has been applied to. Statuses are shared, so an intent is never changed in place.
func (i *StopIntent) with(change func(*StopIntent)) *StopIntent {
	c := *i
	c.Senders = slices.Clone(i.Senders)
	change(&c)
	return &c
}

// Exit is how init ended.
type Exit struct {
	Known  bool            `json:"known"` // false: it is gone and left no record (a reboot)
	Wait   unix.WaitStatus `json:"wait"`  // as wait(2) reports it; exit code, signal and core flag apart
	OOM    bool            `json:"oom,omitempty"`
	Killer *exitbpf.Sender `json:"killer,omitempty"` // who generated the signal it died of
	Source string          `json:"source,omitempty"` // which witness told: bpf, recent, wait, stat, pidfd, start (never had a program)

	CgroupID uint64 `json:"cgroupID,omitempty"` // where it died, as in Killer.CgroupID
	OOMKills uint64 `json:"oomKills,omitempty"` // processes of the container that the OOM killer ended in its whole life, init included
}

// ByOwn tells whether the fatal signal came from a process of the container itself.
func (e *Exit) ByOwn() bool {
	return e != nil && e.Killer != nil && !e.Killer.Kernel && e.CgroupID != 0 && e.Killer.CgroupID == e.CgroupID
}

// UnknownExitCode is reported for a process that is gone without a record. It is the value that the kubelet's users know from
// other runtimes; never 0, which would be a success that nobody saw.
const UnknownExitCode = 255

// Code is the exit code as the CRI has it: the program's own, or 128+n for signal n.
func (e *Exit) Code() int32 {
	switch {
	case e == nil:
		return 0
	case !e.Known:
		return UnknownExitCode
	case e.Wait.Signaled():
		return 128 + int32(e.Wait.Signal())
	default:
		return int32(e.Wait.ExitStatus())
	}
}

// exitedWith is the wait status of a process that exited with code.
func exitedWith(code uint8) unix.WaitStatus { return unix.WaitStatus(uint32(code) << 8) }
