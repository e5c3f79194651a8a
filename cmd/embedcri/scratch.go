// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/embedcri/embedcri/pkg/config"
)

// useScratchDir gives temporary files a directory in which the next daemon finds and removes what a killed one left: go-runc writes
// the process of each exec, its environment in it, to $XDG_RUNTIME_DIR, which would otherwise be /tmp for ever. The programs of
// earlier daemons, which may read such a file, have to have ended.
func useScratchDir(c *config.Config) error {
	dir := filepath.Join(c.State, "tmp")
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil { // one by one: nothing here may lead elsewhere
			return err
		}
	}
	return os.Setenv("XDG_RUNTIME_DIR", dir)
}
