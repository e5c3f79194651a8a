// SPDX-License-Identifier: Apache-2.0

package runc

import (
	"os/exec"
	"time"

	gorunc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"
)

// pipeDelay is for how long a runtime's output is waited for after its end: what it left behind may hold the pipe for ever.
const pipeDelay = time.Second

// groupMonitor has a runtime's whole process group killed when its time is over (cli makes each one the leader of its own), and does
// not wait for what holds its pipes.
type groupMonitor struct{ gorunc.ProcessMonitor }

func init() { gorunc.Monitor = groupMonitor{gorunc.Monitor} }

// Start implements gorunc.ProcessMonitor.
func (m groupMonitor) Start(c *exec.Cmd) (chan gorunc.Exit, error) {
	inGroup(c)
	return m.ProcessMonitor.Start(c)
}

// StartLocked implements gorunc.ProcessMonitor.
func (m groupMonitor) StartLocked(c *exec.Cmd) (chan gorunc.Exit, error) {
	inGroup(c)
	return m.ProcessMonitor.StartLocked(c)
}

func inGroup(c *exec.Cmd) {
	if c.SysProcAttr == nil || !c.SysProcAttr.Setpgid || c.Cancel == nil {
		return
	}
	c.WaitDelay = pipeDelay
	c.Cancel = func() error { return unix.Kill(-c.Process.Pid, unix.SIGKILL) } // not reaped yet: Wait comes after Cancel
}
