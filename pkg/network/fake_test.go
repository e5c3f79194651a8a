// SPDX-License-Identifier: Apache-2.0

package network_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/embedcri/embedcri/pkg/network"
)

// fakes is a node with plug-ins that are shell scripts. They need no root: the namespace they are
// given is the test's own, and they do nothing to it.
type fakes struct {
	t   testing.TB
	dir string
	network.Options
}

func newFakes(t testing.TB) *fakes {
	t.Helper()
	dir := t.TempDir()
	f := &fakes{t: t, dir: dir, Options: network.Options{
		ConfDir:  filepath.Join(dir, "net.d"),
		BinDirs:  []string{filepath.Join(dir, "bin")},
		CacheDir: filepath.Join(dir, "cache"),
		Timeout:  20 * time.Second,
	}}
	for _, d := range []string{f.ConfDir, f.BinDirs[0]} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"any", "bridge", "host-local", "portmap"} {
		f.plugin(name, "") // for configurations that nobody is attached by
	}
	return f
}

// plugin writes a plug-in. Each call is written to the log first (those of STATUS, which come at
// any time, to one of their own); then the script decides, with $CNI_COMMAND, $conf (its
// configuration) and $dir (the fakes' directory).
func (f *fakes) plugin(name, script string) {
	f.t.Helper()
	text := fmt.Sprintf("#!/bin/sh\ndir=%s\nconf=$(cat)\nlog=$dir/log; [ $CNI_COMMAND != STATUS ] || log=$dir/log.status\necho \"%s $CNI_COMMAND $CNI_IFNAME\" >> $log\n%s\n", f.dir, name, script)
	file := filepath.Join(f.BinDirs[0], name)
	if err := os.WriteFile(file+".new", []byte(text), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		f.t.Fatal(err)
	}
}

// result is a script that answers ADD with an address and everything else with nothing.
const result = `[ $CNI_COMMAND != ADD ] || echo '{"cniVersion":"1.0.0","ips":[{"address":"198.51.100.7/24"}]}'`

// network writes a configuration of plug-ins without settings.
func (f *fakes) network(file, name, version string, plugins ...string) {
	f.t.Helper()
	var list []string
	for _, p := range plugins {
		list = append(list, fmt.Sprintf(`{"type":%q}`, p))
	}
	f.conf(file, fmt.Sprintf(`{"cniVersion":%q,"name":%q,"plugins":[%s]}`, version, name, strings.Join(list, ",")))
}

// conf puts a file into the configuration directory the way installers should.
func (f *fakes) conf(file, text string) {
	f.t.Helper()
	target := filepath.Join(f.ConfDir, file)
	if err := os.WriteFile(target+".new", []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Rename(target+".new", target); err != nil {
		f.t.Fatal(err)
	}
}

// log returns the calls there were, and forgets them.
func (f *fakes) log() string {
	f.t.Helper()
	b, err := os.ReadFile(filepath.Join(f.dir, "log"))
	if err != nil && !os.IsNotExist(err) {
		f.t.Fatal(err)
	}
	_ = os.Remove(filepath.Join(f.dir, "log"))
	return strings.Join(strings.Split(strings.TrimSpace(string(b)), "\n"), ", ")
}

// read returns a file that a plug-in wrote.
func (f *fakes) read(name string) string {
	f.t.Helper()
	b, err := os.ReadFile(filepath.Join(f.dir, name))
	if err != nil {
		f.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// plan plans a pod whose attachment goes through JSON, as the caller's records do.
func plan(t testing.TB, n *network.Network, p network.Pod) *network.Attachment {
	t.Helper()
	if p.ID == "" {
		p.ID = podID("pod")
	}
	p.NetNS = "/proc/self/ns/net"
	a, err := n.Plan(p)
	if err != nil {
		t.Fatal(err)
	}
	return stored(t, a)
}

func stored(t testing.TB, a *network.Attachment) *network.Attachment {
	t.Helper()
	raw, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	var out network.Attachment
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return &out
}

// mustContain fails unless the error says all of it.
func mustContain(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not say %q", err, p)
		}
	}
}
