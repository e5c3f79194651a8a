// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
)

// layoutDir is where objects of the present layout are pinned, below Options.Dir.
// A change of slot, proc or rawOOM means a new number here and an entry in
// layouts for the old one.
const layoutDir = "v1"

// layouts says how records of older layouts are read; nil for the present one.
// Absent: somebody newer was here, whose records must not be touched.
type layouts map[string]func(key, value []byte) (proc, slot, error)

func knownLayouts() layouts { return layouts{layoutDir: nil} }

// pinned is one pinned object: <name>_<generation>. Generations instead of
// renames: the new one stands beside the old until nothing needs that any more,
// and whatever a crash leaves is seen and merged by the next Open.
type pinned struct {
	name string
	gen  int
	path string
}

// maxGen is far beyond what Opens can count to, and leaves room for the next one.
const maxGen = 1 << 30

func pinPath(dir, name string, gen int) string {
	return filepath.Join(dir, name+"_"+strconv.Itoa(gen))
}

// listPins returns the pins of one layout, the newest generation of each name first.
func listPins(dir string) ([]pinned, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var pins []pinned
	for _, e := range entries {
		if p, ok := parsePin(dir, e.Name()); ok {
			pins = append(pins, p)
		}
	}
	slices.SortFunc(pins, func(a, b pinned) int { return b.gen - a.gen })
	return pins, nil
}

// parsePin reads the name of a file in dir; not ok if pinPath did not make it.
func parsePin(dir, file string) (p pinned, ok bool) {
	i := strings.LastIndexByte(file, '_')
	if i < 0 {
		return pinned{}, false
	}
	gen, err := strconv.Atoi(file[i+1:])
	p = pinned{name: file[:i], gen: gen, path: filepath.Join(dir, file)}
	return p, err == nil && gen > 0 && gen < maxGen && p.path == pinPath(dir, p.name, gen)
}

func named(pins []pinned, name string) []pinned {
	return slices.DeleteFunc(slices.Clone(pins), func(p pinned) bool { return p.name != name })
}

func nextGen(pins []pinned) int {
	if len(pins) == 0 {
		return 1
	}
	return pins[0].gen + 1
}

func unpin(pins []pinned) error {
	var errs []error
	for _, p := range pins {
		if err := os.Remove(p.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// openMaps opens the pinned maps of one name. A pin that is not a map fails: it
// is none of ours, and guessing would lose records.
func openMaps(pins []pinned) ([]*ebpf.Map, error) {
	var maps []*ebpf.Map
	for _, p := range pins {
		m, err := ebpf.LoadPinnedMap(p.path, nil)
		if err != nil {
			closeMaps(maps)
			return nil, fmt.Errorf("open pinned map %s: %w", p.path, err)
		}
		maps = append(maps, m)
	}
	return maps, nil
}

func closeMaps(maps []*ebpf.Map) {
	for _, m := range maps {
		_ = m.Close()
	}
}
