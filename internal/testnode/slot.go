// SPDX-License-Identifier: Apache-2.0

package testnode

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Nodes of several processes share this machine's network. Each takes a slot, which gives it a subnet that no other has, and the
// last to give its slot back restores ip_forward as the first one found it: the bridge plug-in switches it on, and a node that
// switched it off again while another one runs would cut that one's pods off.
//
// A slot is a file with its owner's pid, so that those of a killed process are found and taken over.
const (
	slotDir     = "/run/embedcri-test-slots"
	forwardCopy = slotDir + "/ip_forward"
	forwardFile = "/proc/sys/net/ipv4/ip_forward"
	maxSlots    = 200
)

// takeSlot takes a slot until the test ends.
func takeSlot(t testing.TB, first int) (slot int) {
	t.Helper()
	err := withSlots(func() error {
		taken, err := slots()
		if err != nil {
			return err
		}
		if len(taken) == 0 {
			if err := keepForward(); err != nil {
				return err
			}
		}
		for i := range maxSlots {
			if slot = (first + i) % maxSlots; !taken[slot] {
				return os.WriteFile(slotFile(slot), []byte(strconv.Itoa(os.Getpid())), 0o600)
			}
		}
		return fmt.Errorf("all %d slots are taken", maxSlots)
	})
	if err != nil {
		t.Fatalf("take a slot in %s: %v", slotDir, err)
	}
	return slot
}

// giveSlot gives a slot back.
func giveSlot(t testing.TB, slot int) {
	t.Helper()
	err := withSlots(func() error {
		if err := os.Remove(slotFile(slot)); err != nil {
			return err
		}
		taken, err := slots()
		if err != nil || len(taken) > 0 {
			return err
		}
		value, err := os.ReadFile(forwardCopy)
		if err != nil {
			return err
		}
		if err := os.WriteFile(forwardFile, value, 0); err != nil {
			return err
		}
		return os.Remove(forwardCopy)
	})
	if err != nil {
		t.Errorf("give slot %d in %s back: %v", slot, slotDir, err)
	}
}

func slotFile(slot int) string { return filepath.Join(slotDir, strconv.Itoa(slot)) }

// keepForward notes what ip_forward is, unless a killed process did and could not restore it.
func keepForward() error {
	if _, err := os.Stat(forwardCopy); err == nil {
		return nil
	}
	value, err := os.ReadFile(forwardFile)
	if err != nil {
		return err
	}
	return os.WriteFile(forwardCopy, value, 0o600)
}

// slots are those of processes that live; the others are removed.
func slots() (taken map[int]bool, err error) {
	files, err := filepath.Glob(slotDir + "/[0-9]*")
	if err != nil {
		return nil, err
	}
	taken = map[int]bool{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil || unix.Kill(pid, 0) == unix.ESRCH {
			if err := os.Remove(f); err != nil {
				return nil, err
			}
			continue
		}
		slot, err := strconv.Atoi(filepath.Base(f))
		if err != nil {
			return nil, err
		}
		taken[slot] = true
	}
	return taken, nil
}

// withSlots calls f while no other process looks at the directory, which is there only as long as anything is in it.
func withSlots(f func() error) error {
	for {
		if err := os.MkdirAll(slotDir, 0o700); err != nil {
			return err
		}
		dir, err := os.Open(slotDir)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return err
		}
		if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
			dir.Close()
			return err
		}
		locked, err := dir.Stat()
		if err != nil {
			dir.Close()
			return err
		}
		if there, err := os.Stat(slotDir); err != nil || !os.SameFile(locked, there) {
			dir.Close() // its last user has just removed it
			continue
		}
		err = f()
		_ = os.Remove(slotDir) // fails while there is something in it
		dir.Close()
		return err
	}
}
