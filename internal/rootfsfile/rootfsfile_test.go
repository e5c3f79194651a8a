// SPDX-License-Identifier: Apache-2.0

package rootfsfile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tree makes a root with one hostile thing in it, beside a secret outside.
func tree(t *testing.T) (root string) {
	t.Helper()
	dir := t.TempDir()
	root = filepath.Join(dir, "rootfs")
	for _, d := range []string{"etc", "usr/share"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("host"), 0o600); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestOpen(t *testing.T) {
	const limit = 16
	for _, tt := range []struct {
		name string
		make func(root, path string) error
		want string // content
		err  error
	}{
		{name: "plain", make: func(_, p string) error { return os.WriteFile(p, []byte("root:x:0:0"), 0o644) }, want: "root:x:0:0"},
		{name: "exactly the limit", make: func(_, p string) error { return os.WriteFile(p, make([]byte, limit), 0o644) }, want: strings.Repeat("\x00", limit)},
		{name: "absolute link inside", make: func(root, p string) error {
			if err := os.WriteFile(filepath.Join(root, "usr/share/passwd"), []byte("inside"), 0o644); err != nil {
				return err
			}
			return os.Symlink("/usr/share/passwd", p)
		}, want: "inside"},
		{name: "missing", make: func(string, string) error { return nil }, err: fs.ErrNotExist},
		{name: "relative link out", make: func(_, p string) error { return os.Symlink("../../secret", p) }, err: fs.ErrNotExist},
		{name: "absolute link out", make: func(root, p string) error {
			return os.Symlink(filepath.Join(filepath.Dir(root), "secret"), p)
		}, err: fs.ErrNotExist},
		{name: "link to the host's passwd", make: func(_, p string) error { return os.Symlink("/etc/passwd", p) }, err: unix.ELOOP},
		{name: "link loop", make: func(root, p string) error {
			return errors.Join(os.Symlink("b", p), os.Symlink("passwd", filepath.Join(root, "etc/b")))
		}, err: unix.ELOOP},
		{name: "directory", make: func(_, p string) error { return os.Mkdir(p, 0o755) }, err: ErrNotRegular},
		{name: "fifo", make: func(_, p string) error { return unix.Mkfifo(p, 0o644) }, err: ErrNotRegular},
		{name: "2 GiB sparse", make: func(_, p string) error {
			return errors.Join(os.WriteFile(p, nil, 0o644), os.Truncate(p, 2<<30))
		}, err: ErrTooLarge},
		{name: "one byte too many", make: func(_, p string) error { return os.WriteFile(p, make([]byte, limit+1), 0o644) }, err: ErrTooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := tree(t)
			if err := tt.make(root, filepath.Join(root, "etc/passwd")); err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				f, err := Open(root, "/etc/passwd", limit)
				if !errors.Is(err, tt.err) {
					t.Errorf("Open: %v, want %v", err, tt.err)
				}
				if err != nil {
					return
				}
				defer f.Close()
				if got, err := io.ReadAll(f); err != nil || string(got) != tt.want {
					t.Errorf("read %q, %v, want %q", got, err, tt.want)
				}
			}()
			select {
			case <-done:
			case <-time.After(10 * time.Second):
				t.Fatal("Open waits")
			}
		})
	}
}

func TestOpenDevice(t *testing.T) {
	root := tree(t)
	if err := unix.Mknod(filepath.Join(root, "etc/passwd"), unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5))); err != nil {
		t.Skipf("mknod: %v", err) // needs CAP_MKNOD
	}
	if _, err := Open(root, "etc/passwd", MaxSize); !errors.Is(err, ErrNotRegular) {
		t.Errorf("Open(/dev/zero): %v, want %v", err, ErrNotRegular)
	}
}

// TestGrowing checks that a file that grows after it was opened is not cut short in silence.
func TestGrowing(t *testing.T) {
	root := tree(t)
	p := filepath.Join(root, "etc/passwd")
	if err := os.WriteFile(p, []byte("1234"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := Open(root, "etc/passwd", 8)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.WriteFile(p, []byte("123456789"), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(f)
	if string(got) != "12345678" || !errors.Is(err, ErrTooLarge) {
		t.Errorf("read %q, %v, want 8 bytes and %v", got, err, ErrTooLarge)
	}
}
