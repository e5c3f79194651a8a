// SPDX-License-Identifier: Apache-2.0

package task

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/embedcri/embedcri/internal/atomicfile"
	"github.com/embedcri/embedcri/pkg/store"
)

// statusRecord is the name of a task's record in the store.
const statusRecord = "status"

// putLocked stores s so that it outlives the daemon. Not the power: see package store.
func (t *Task) putLocked(s Status) error {
	err := t.m.o.Store.Put(t.id, statusRecord, s, atomicfile.Process)
	t.unsaved = err != nil
	return err
}

// save makes the status survive a power loss. It comes after the exit is shown: nobody waits for a disk to hear of it.
func (t *Task) save() error {
	t.mu.Lock()
	if t.unsaved {
		if err := t.putLocked(t.Status()); err != nil {
			t.mu.Unlock()
			return err
		}
	}
	t.mu.Unlock()
	return t.m.o.Store.Sync(t.id, statusRecord)
}

// ReadStatus reads what is on record of a task, and nothing else: no task comes of it, and no daemon need run.
func ReadStatus(k *store.Kind, id string) (s Status, err error) {
	err = k.Get(id, statusRecord, &s)
	return s, err
}

// writeSpec writes the bundle's config.json.
func writeSpec(dir string, spec *specs.Spec) error {
	b, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("write config.json: %w", err)
	}
	return atomicfile.Write(filepath.Join(dir, "config.json"), b, 0o600, atomicfile.Process) // env holds secrets
}

func readSpec(dir string) (*specs.Spec, error) {
	b, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return nil, fmt.Errorf("read config.json: %w", err)
	}
	var s specs.Spec
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("read config.json: %w", err)
	}
	return &s, nil
}
