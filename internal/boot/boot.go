// SPDX-License-Identifier: Apache-2.0

// Package boot tells one boot of the machine from another.
package boot

import (
	"fmt"
	"os"
	"strings"
)

// Env is the environment variable that names another boot than the real one, for tests: a daemon that is started with it finds
// itself on a machine that has been rebooted.
const Env = "EMBEDCRI_BOOT_ID"

// ID names this boot of the kernel (random(4)). Pids and mounts of another one mean nothing.
func ID() (string, error) {
	if id := os.Getenv(Env); id != "" {
		return id, nil
	}
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
