// SPDX-License-Identifier: Apache-2.0

package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/embedcri/embedcri/internal/atomicfile"
	"github.com/embedcri/embedcri/internal/failpoint"
)

// Format is the version of the on-disk format that this build writes.
const Format = 1

// ErrDamaged says that a record exists but cannot be read as one: torn, empty, or written by something else.
var ErrDamaged = errors.New("damaged record")

// Store is a directory of records.
type Store struct{ root string }

// Open uses root, which is made if absent. It fails with ErrFailedPrecondition if the records were written by a newer format.
func Open(root string) (*Store, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	path := filepath.Join(root, "version")
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := atomicfile.Write(path, []byte(strconv.Itoa(Format)+"\n"), 0o600, atomicfile.Power); err != nil {
			return nil, fmt.Errorf("open store: %w", err)
		}
	case err != nil:
		return nil, fmt.Errorf("open store: %w", err)
	default:
		v, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil || v < 1 {
			return nil, fmt.Errorf("open store: %s: %q is no format version: %w", path, b, ErrDamaged)
		}
		if v > Format {
			return nil, fmt.Errorf("open store: %s holds format %d, this build knows up to %d: %w", root, v, Format, errdefs.ErrFailedPrecondition)
		}
	}
	return &Store{root: root}, nil
}

// damagedDir is where SetAside puts copies of records.
const damagedDir = "damaged"

// Kind returns the records of one kind.
func (s *Store) Kind(name string) (*Kind, error) {
	dir := filepath.Join(s.root, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open store of %s: %w", name, err)
	}
	return &Kind{dir: dir}, nil
}

// Sweep removes what a daemon was killed over: records on their way out (Delete), and files that were about to replace another or
// had just been replaced. Only for the daemon itself, before it writes: to another's files that are under way it does the same.
func (k *Kind) Sweep() error {
	trash, err := filepath.Glob(filepath.Join(filepath.Dir(k.dir), "."+filepath.Base(k.dir)+"-*"))
	if err != nil {
		return err
	}
	temps, err := filepath.Glob(filepath.Join(k.dir, "*", atomicfile.TempPattern))
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range append(trash, temps...) {
		errs = append(errs, os.RemoveAll(path))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("sweep store of %s: %w", filepath.Base(k.dir), err)
	}
	return nil
}

// SetAside copies a record, whatever is in it, to <root>/damaged, and returns where to: a damaged one is evidence, and has to
// outlive its object.
func (k *Kind) SetAside(id, name string) (string, error) {
	dir := filepath.Join(filepath.Dir(k.dir), damagedDir)
	path := filepath.Join(dir, fmt.Sprintf("%s-%s-%s.json", filepath.Base(k.dir), id, name))
	b, err := os.ReadFile(k.path(id, name))
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err == nil {
		err = atomicfile.Write(path, b, 0o600, atomicfile.Process)
	}
	if err != nil {
		return path, fmt.Errorf("set %s of %s aside: %w", name, id, err)
	}
	return path, nil
}

// Kind is a directory with one sub-directory per object.
type Kind struct{ dir string }

// envelope wraps each record, so that a file from elsewhere is not taken for one.
type envelope struct {
	Format int             `json:"embedcri"`
	Data   json.RawMessage `json:"data"`
}

// Dir returns the directory of one object, whether it exists or not.
func (k *Kind) Dir(id string) string { return filepath.Join(k.dir, id) }

// Create makes the directory of an object; it may exist already.
func (k *Kind) Create(id string) error {
	if err := os.MkdirAll(k.Dir(id), 0o700); err != nil {
		return fmt.Errorf("create record %s: %w", id, err)
	}
	return nil
}

// Put replaces one record of an object.
func (k *Kind) Put(id, name string, v any, d atomicfile.Durability) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("put %s of %s: %w", name, id, err)
	}
	b, err := json.Marshal(envelope{Format: Format, Data: data})
	if err != nil {
		return fmt.Errorf("put %s of %s: %w", name, id, err)
	}
	if err := atomicfile.Write(k.path(id, name), b, 0o600, d); err != nil {
		return fmt.Errorf("put %s of %s: %w", name, id, err)
	}
	return nil
}

// Sync makes a record that was put with Process durability survive a power loss too.
func (k *Kind) Sync(id, name string) error {
	f, err := os.Open(k.path(id, name))
	if err != nil {
		return fmt.Errorf("sync %s of %s: %w", name, id, err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s of %s: %w", name, id, err)
	}
	return atomicfile.SyncDir(k.Dir(id))
}

// StartSync begins a Sync and does not wait for it, as what is made next does not outlive a power loss anyway. wait returns what came
// of it; it may be called from anywhere, several times or never.
func (k *Kind) StartSync(id, name string) (wait func() error) {
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = k.Sync(id, name)
	}()
	return func() error {
		<-done
		return err
	}
}

// Get reads one record into v. errdefs.ErrNotFound: there is none; ErrDamaged: there is, but it cannot be read.
func (k *Kind) Get(id, name string, v any) error {
	b, err := os.ReadFile(k.path(id, name))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("get %s of %s: %w", name, id, errdefs.ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("get %s of %s: %w", name, id, err)
	}
	var e envelope
	if err := json.Unmarshal(b, &e); err != nil {
		return fmt.Errorf("get %s of %s: %w: %w", name, id, ErrDamaged, err)
	}
	if e.Format < 1 || e.Format > Format || len(e.Data) == 0 {
		return fmt.Errorf("get %s of %s: format %d: %w", name, id, e.Format, ErrDamaged)
	}
	if err := json.Unmarshal(e.Data, v); err != nil {
		return fmt.Errorf("get %s of %s: %w: %w", name, id, ErrDamaged, err)
	}
	return nil
}

// List returns the ids of all objects, also of those whose records are damaged.
func (k *Kind) List() ([]string, error) {
	entries, err := os.ReadDir(k.dir)
	if err != nil {
		return nil, fmt.Errorf("list records: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// Delete removes an object with all its records. Deleting an absent one succeeds. The directory is renamed first, so that a crash
// in the middle cannot leave an object with half of its records.
func (k *Kind) Delete(id string) error {
	trash := filepath.Join(filepath.Dir(k.dir), "."+filepath.Base(k.dir)+"-"+id)
	if err := os.Rename(k.Dir(id), trash); err != nil && !errors.Is(err, fs.ErrNotExist) {
		if err := os.RemoveAll(trash); err != nil { // left by a crash between rename and removal
			return fmt.Errorf("delete record %s: %w", id, err)
		}
		if err := os.Rename(k.Dir(id), trash); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("delete record %s: %w", id, err)
		}
	}
	if err := failpoint.RecordTrashed.Do(func() error { return os.RemoveAll(trash) }); err != nil {
		return fmt.Errorf("delete record %s: %w", id, err)
	}
	return nil
}

func (k *Kind) path(id, name string) string { return filepath.Join(k.dir, id, name+".json") }
