// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReadStatOfTheReaped: a process that is reaped while its stat is being read is gone, whether the open or the read says so (with
// ENOENT and ESRCH). About one in three of these is caught between the two.
func TestReadStatOfTheReaped(t *testing.T) {
	for range 100 {
		p, err := os.StartProcess("/bin/true", []string{"true"}, &os.ProcAttr{})
		if err != nil {
			t.Fatal(err)
		}
		pid := p.Pid
		reaped := make(chan error, 1)
		go func() {
			_, err := p.Wait()
			reaped <- err
		}()
		for err == nil {
			_, err = readStat(pid)
		}
		if err != unix.ESRCH {
			t.Errorf("%v, want exactly ESRCH", err)
		}
		if err := <-reaped; err != nil {
			t.Fatal(err)
		}
	}
}
