// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"bytes"
	"fmt"
	"os"
	"sync"
)

// deviceNames remembers names of block devices. The zero value is ready.
type deviceNames struct {
	mu sync.Mutex
	m  map[[2]uint32]string
}

// name returns the path of a block device below /dev, as cAdvisor labels it: "/dev/sda". One without a name is "8:0".
func (n *deviceNames) name(major, minor uint32) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := [2]uint32{major, minor}
	if s, ok := n.m[key]; ok {
		return s
	}
	s := fmt.Sprintf("%d:%d", major, minor)
	if b, err := os.ReadFile("/sys/dev/block/" + s + "/uevent"); err == nil {
		for line := range bytes.Lines(b) {
			if dev, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("DEVNAME=")); ok {
				s = "/dev/" + string(dev)
			}
		}
	}
	if n.m == nil {
		n.m = map[[2]uint32]string{}
	}
	n.m[key] = s
	return s
}
