// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"path/filepath"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// wantNoLeases ends the daemon and looks into the image store's database: what a lease holds is never collected.
func (a *actor) wantNoLeases(t testing.TB) {
	t.Helper()
	a.alive()
	a.n.Term()
	db, err := bolt.Open(filepath.Join(a.n.Dir, "root", "image", "metadata.db"), 0o600, &bolt.Options{ReadOnly: true, Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	err = db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte("v1"))
		for _, name := range []string{"embedcri", "leases"} {
			if b == nil {
				return nil
			}
			b = b.Bucket([]byte(name))
		}
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, _ []byte) error {
			t.Errorf("lease %s is left", k)
			return nil
		})
	})
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	if err != nil {
		t.Error(err)
	}
	a.n.Start()
}
