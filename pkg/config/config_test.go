// SPDX-License-Identifier: Apache-2.0

package config

import (
	"flag"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestDefaultIsValidAndRoundTrips(t *testing.T) {
	c := Default()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	b, err := c.TOML()
	if err != nil {
		t.Fatal(err)
	}
	got := &Config{}
	if err := got.parse("default.toml", b); err != nil {
		t.Fatalf("%v in\n%s", err, b)
	}
	// A nil and an empty list are the same setting.
	again, err := got.TOML()
	if err != nil || string(again) != string(b) {
		t.Fatalf("read back differs:\n%s\n%s (%v)", b, again, err)
	}
}

func TestUnknownKeyNamesFileAndLine(t *testing.T) {
	err := Default().parse("x.toml", []byte("socket = \"/a\"\n\n[exec]\nbogus = 1\n"))
	if err == nil || !strings.Contains(err.Error(), "x.toml:4") || !strings.Contains(err.Error(), "exec.bogus") {
		t.Fatalf("got %v", err)
	}
	err = Default().parse("x.toml", []byte("socket = 7\n"))
	if err == nil || !strings.Contains(err.Error(), "x.toml:1") {
		t.Fatalf("got %v", err)
	}
}

func TestFileThenFlags(t *testing.T) {
	c := Default()
	if err := c.parse("x.toml", []byte("root = \"/a\"\nstate = \"/b\"\n[exec]\ndrain_timeout = \"3s\"\n[runtime.handlers.crun]\npath = \"/usr/bin/crun\"\n")); err != nil {
		t.Fatal(err)
	}
	f := flag.NewFlagSet("", flag.ContinueOnError)
	c.Flags(f)
	if err := f.Parse([]string{"-root=/c", "-cni-bin-dirs=/x:/y", "-runtime=/r"}); err != nil {
		t.Fatal(err)
	}
	if c.Root != "/c" || c.State != "/b" || time.Duration(c.Exec.DrainTimeout) != 3*time.Second {
		t.Fatalf("got %+v", c)
	}
	if !reflect.DeepEqual(c.Network.BinDirs, []string{"/x", "/y"}) || c.Runtime.Handlers["runc"].Path != "/r" || c.Runtime.Handlers["crun"].Path != "/usr/bin/crun" {
		t.Fatalf("got %+v", c)
	}
}

func TestValidateNamesEveryMistake(t *testing.T) {
	for key, spoil := range map[string]func(*Config){
		"socket":                          func(c *Config) { c.Socket = "rel" },
		"root":                            func(c *Config) { c.Root = "/" },
		"runtime.default":                 func(c *Config) { c.Runtime.Default = "no" },
		"runtime.handlers":                func(c *Config) { c.Runtime.Handlers["x/y"] = Handler{Path: "p"} },
		"cgroup.driver":                   func(c *Config) { c.Cgroup.Driver = "x" },
		"network.bin_dirs":                func(c *Config) { c.Network.BinDirs = nil },
		"network.default_network.subnets": func(c *Config) { c.Network.DefaultNetwork.Subnets = []string{"x"} },
		"network.default_network.bridge":  func(c *Config) { c.Network.DefaultNetwork.Bridge = "a-very-long-bridge-name" },
		"exec.drain_timeout":              func(c *Config) { c.Exec.DrainTimeout = 0 },
		"network.max_parallel":            func(c *Config) { c.Network.MaxParallel = 0 },
		"streaming.tls_cert":              func(c *Config) { c.Streaming.TLSCert = "x" },
		"exit.capacity":                   func(c *Config) { c.Exit.Capacity = -1 },
		"pod.shm_size":                    func(c *Config) { c.Pod.ShmSize = 0 },
	} {
		c := Default()
		spoil(c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), key+":") {
			t.Errorf("%s: got %v", key, err)
		}
	}
}
