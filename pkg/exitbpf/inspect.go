// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
)

// Record is one pinned slot, for debugging.
type Record struct {
	Key      Key
	Pid      int // as the daemon that reserved the slot numbers it
	Reserved time.Time
	Exit     *Exit // nil while the process lives, or if what stands there makes no sense
	Err      error // why, in the second case
}

// Records reads what is pinned under dir, changing nothing: a daemon may be
// using it or be dead. No tracer there is an errdefs.ErrNotFound.
func Records(dir string) ([]Record, error) {
	recs, err := readRecords(filepath.Join(filepath.Clean(dir), layoutDir))
	if err != nil {
		return nil, fmt.Errorf("read exit records in %s: %w", dir, err)
	}
	return recs, nil
}

func readRecords(dir string) ([]Record, error) {
	c, err := newClock()
	if err != nil {
		return nil, err
	}
	pins, err := listPins(dir)
	if err != nil {
		return nil, err
	}
	maps, err := openMaps(named(pins, "watched"))
	if err != nil {
		return nil, err
	}
	defer closeMaps(maps)
	if len(maps) == 0 {
		return nil, errdefs.ErrNotFound
	}
	var recs []Record
	err = source{m: maps[0]}.each(func(p proc, s slot) error {
		r := Record{Key: Key(s.Key), Pid: int(p.Pid), Reserved: c.wall(s.ReservedAt)}
		if s.State != stateArmed && s.State != stateWriting {
			if e, err := s.exit(p, c); err == nil {
				r.Exit = &e
			} else {
				r.Err = err
			}
		}
		recs = append(recs, r)
		return nil
	})
	return recs, err
}
