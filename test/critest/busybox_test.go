// SPDX-License-Identifier: Apache-2.0

package critest

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/embedcri/embedcri/internal/testregistry"
)

// plainBusybox returns the program of Debian's package busybox: $EMBEDCRI_BUSYBOX, else the machine's own if it is that one, else a
// cached copy that apt fetches once. busybox-static, which other tests use and which excludes busybox from the machine, will not do:
// its shell runs applets out of itself, also where the path to one is masked.
func plainBusybox() (string, error) {
	for _, p := range []string{os.Getenv("EMBEDCRI_BUSYBOX"), "/bin/busybox"} {
		if p != "" && isDynamic(p) {
			return p, nil
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	dir := filepath.Join(cache, "embedcri-test")
	kept := filepath.Join(dir, "busybox-plain")
	if isDynamic(kept) {
		return kept, nil
	}
	tmp, err := os.MkdirTemp("", "embedcri-busybox-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	cmd := exec.Command("sh", "-c", "apt-get download busybox && dpkg-deb -x busybox_*.deb .")
	cmd.Dir = tmp
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("fetch Debian's package busybox (EMBEDCRI_BUSYBOX can name its program): %w: %s", err, out)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	b, err := os.ReadFile(filepath.Join(tmp, "bin", "busybox"))
	if err != nil {
		return "", err
	}
	return kept, os.WriteFile(kept, b, 0o755)
}

// isDynamic says whether the program needs a dynamic linker.
func isDynamic(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}

// busyboxFiles are busybox with a hard link per applet, the libraries it needs, and the directories and users of a small system. The
// links are hard, as in the busybox image on the hub: a mask over /bin/ls must not hit all the others.
func busyboxFiles() ([]testregistry.Entry, error) {
	program, err := plainBusybox()
	if err != nil {
		return nil, err
	}
	binary, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	var entries []testregistry.Entry
	for _, d := range []string{"bin", "dev", "etc", "home", "mnt", "proc", "root", "run", "sys", "usr", "usr/sbin", "var"} {
		entries = append(entries, testregistry.Dir(d, 0o755))
	}
	entries = append(entries,
		testregistry.Dir("tmp", 0o1777),
		testregistry.File("bin/busybox", 0o755, binary),
		testregistry.Symlink("var/run", "../run"),
		testregistry.File("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\n"+
			"default-user:x:1000:1000::/home:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n")),
		testregistry.File("etc/group", 0o644, []byte("root:x:0:\nwww-data:x:33:\ndefault-user:x:1000:\nnogroup:x:65534:\n")),
	)
	list, err := exec.Command(program, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list busybox applets: %w", err)
	}
	for applet := range strings.FieldsSeq(string(list)) {
		if applet != "busybox" {
			entries = append(entries, link("bin/"+applet, "bin/busybox"))
		}
	}
	libraries, err := libraryFiles(program)
	return append(entries, libraries...), err
}

// libraryFiles are the shared libraries of a program and its dynamic linker, at the paths they have on this machine.
func libraryFiles(program string) ([]testregistry.Entry, error) {
	out, err := exec.Command("ldd", program).Output()
	if err != nil {
		return nil, fmt.Errorf("list the libraries of %s: %w", program, err)
	}
	var entries []testregistry.Entry
	for word := range strings.FieldsSeq(string(out)) {
		if !strings.HasPrefix(word, "/") {
			continue
		}
		b, err := os.ReadFile(word)
		if err != nil {
			return nil, err
		}
		entries = append(entries, testregistry.File(strings.TrimPrefix(word, "/"), 0o755, b))
	}
	return entries, nil
}
