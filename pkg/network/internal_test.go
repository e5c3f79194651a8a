// SPDX-License-Identifier: Apache-2.0

package network

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestHealth(t *testing.T) {
	const grace = 10 * time.Second
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	a, b := errors.New("a"), errors.New("b")
	type look struct {
		at  int
		err error
	}
	for _, c := range []struct {
		name  string
		looks []look
		now   int
		want  error
	}{
		{"never fine: no grace", []look{{0, a}}, 1, a},
		{"fine", []look{{0, a}, {1, nil}}, 100, nil},
		{"within the grace", []look{{0, nil}, {5, a}}, 14, nil},
		{"after the grace", []look{{0, nil}, {5, a}}, 15, a},
		{"the grace counts from the first failure", []look{{0, nil}, {5, a}, {14, b}}, 15, b},
		{"recovered in time: a new grace", []look{{0, nil}, {5, a}, {14, nil}, {20, b}}, 29, nil},
	} {
		var h health
		for _, l := range c.looks {
			h.record(l.err, at(l.at))
		}
		if got := h.verdict(at(c.now), grace); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestParseStat(t *testing.T) {
	m, group, ok := parseStat(12, []byte("12 (a) Z (b c) S 34 56 56 0 -1 4194560"))
	if !ok || group != 56 || m != (member{pid: 12, ppid: 34}) {
		t.Errorf("got %+v, group %d, %v", m, group, ok)
	}
	if m, _, ok := parseStat(12, []byte("12 (x) Z 1 2")); !ok || !m.zombie {
		t.Errorf("got %+v, %v; want a zombie", m, ok)
	}
	for _, bad := range []string{"", "12 (x", "12 (x) S", "12 (x) S a b"} {
		if _, _, ok := parseStat(12, []byte(bad)); ok {
			t.Errorf("%q is taken", bad)
		}
	}
}

// TestBridgeList compares the built-in network, by what the node can do, with files that show it to
// readers as well.
func TestBridgeList(t *testing.T) {
	b := Bridge{Name: "embedcri0", Subnets: []string{"10.88.0.0/16", "fd00:10:88::/64"}, DataDir: "/var/lib/embedcri/ipam"}
	for name, f := range map[string]features{
		"nftables": {filter: "nftables"},
		"iptables": {filter: "iptables", bandwidth: true},
		"none":     {},
	} {
		list, err := b.list(f)
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := json.Unmarshal(list.Bytes, &v); err != nil {
			t.Fatal(err)
		}
		got, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, '\n')
		if no := (netConf{list: list}).cannotMapPorts(); no != (f.filter == "") {
			t.Errorf("%s: cannot map ports: %v", name, no)
		}
		golden := filepath.Join("testdata", "bridge-"+name+".conflist")
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%s: got %s", golden, got)
		}
	}
}
