// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// DefaultFile is read if no file is named, and may be absent then.
const DefaultFile = "/etc/embedcri/config.toml"

// Load reads a TOML file over c. Unknown keys are errors that name file and line. An empty path is DefaultFile if it exists.
func (c *Config) Load(path string) error {
	optional := path == ""
	if optional {
		path = DefaultFile
	}
	b, err := os.ReadFile(path)
	if optional && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	return c.parse(path, b)
}

func (c *Config) parse(path string, b []byte) error {
	dec := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields()
	err := dec.Decode(c)
	var strict *toml.StrictMissingError
	var syntax *toml.DecodeError
	switch {
	case errors.As(err, &strict):
		var errs []error
		for _, e := range strict.Errors {
			line, _ := e.Position()
			errs = append(errs, fmt.Errorf("%s:%d: unknown key %q", path, line, strings.Join(e.Key(), ".")))
		}
		return errors.Join(errs...)
	case errors.As(err, &syntax):
		line, column := syntax.Position()
		return fmt.Errorf("%s:%d:%d: %w", path, line, column, syntax)
	case err != nil:
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// TOML returns c as a commented file.
func (c *Config) TOML() ([]byte, error) {
	var b bytes.Buffer
	enc := toml.NewEncoder(&b)
	enc.SetIndentTables(false)
	err := enc.Encode(c)
	return b.Bytes(), err
}

// Flags registers the settings that are worth a flag; everything else is for the file.
func (c *Config) Flags(f *flag.FlagSet) {
	f.StringVar(&c.Socket, "socket", c.Socket, "unix `path` of the CRI")
	f.StringVar(&c.Root, "root", c.Root, "`directory` of what outlives a reboot")
	f.StringVar(&c.State, "state", c.State, "`directory` of what lives as long as the boot")
	f.StringVar(&c.BPF, "bpf", c.BPF, "`directory` on bpffs for the exit tracer")
	f.StringVar(&c.Cgroup.Driver, "cgroup-driver", c.Cgroup.Driver, "cgroupfs, systemd or auto")
	f.StringVar(&c.Cgroup.Parent, "cgroup-parent", c.Cgroup.Parent, "`cgroup` of pods that name none")
	f.StringVar(&c.Network.ConfDir, "cni-conf-dir", c.Network.ConfDir, "`directory` of CNI configurations")
	f.Func("cni-bin-dirs", "`directories` of CNI plug-ins, separated by colons", func(v string) error {
		c.Network.BinDirs = filepath.SplitList(v)
		return nil
	})
	f.StringVar(&c.Streaming.Address, "streaming-address", c.Streaming.Address, "`host:port` of the streaming server")
	f.Func("runtime", "`path` of the runtime of the default handler", func(v string) error {
		h := c.Runtime.Handlers[c.Runtime.Default]
		h.Path = v
		c.Runtime.Handlers[c.Runtime.Default] = h
		return nil
	})
}

// Validate checks what can be checked without touching the machine. All mistakes are reported, each with its key.
func (c *Config) Validate() error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: "+format, append([]any{key}, args...)...))
	}
	for key, p := range map[string]string{"socket": c.Socket, "root": c.Root, "state": c.State, "bpf": c.BPF, "network.conf_dir": c.Network.ConfDir} {
		if !filepath.IsAbs(p) || filepath.Clean(p) == "/" {
			bad(key, "%q is not an absolute path below /", p)
		}
	}
	if len(c.Socket) > 107 { // sizeof(sun_path) - 1, unix(7)
		bad("socket", "%d bytes are too long for a unix socket", len(c.Socket))
	}
	if _, ok := c.Runtime.Handlers[c.Runtime.Default]; !ok {
		bad("runtime.default", "there is no handler %q", c.Runtime.Default)
	}
	for name, h := range c.Runtime.Handlers {
		if h.Path == "" || name == "" || strings.ContainsAny(name, "/\x00") {
			bad("runtime.handlers", "handler %q needs a name without slashes and a path", name)
		}
	}
	for name, h := range c.Runtime.Handlers {
		if h.PidsLimit < 0 {
			bad("runtime.handlers."+name+".pids_limit", "is negative")
		}
		if h.PrivilegedAllDevicesAllowed && !h.PrivilegedWithoutHostDevices {
			bad("runtime.handlers."+name+".privileged_all_devices_allowed", "needs privileged_without_host_devices")
		}
	}
	switch c.Image.Volumes {
	case "bind", "mkdir", "ignore":
	default:
		bad("image.volumes", "%q is not bind, mkdir or ignore", c.Image.Volumes)
	}
	for _, d := range c.CDI.SpecDirs {
		if !filepath.IsAbs(d) {
			bad("cdi.spec_dirs", "%q is not an absolute path", d)
		}
	}
	switch c.Cgroup.Driver {
	case "auto", "cgroupfs", "systemd":
	default:
		bad("cgroup.driver", "%q is not cgroupfs, systemd or auto", c.Cgroup.Driver)
	}
	if len(c.Network.BinDirs) == 0 {
		bad("network.bin_dirs", "is empty")
	}
	for _, s := range c.Network.DefaultNetwork.Subnets {
		if _, err := netip.ParsePrefix(s); err != nil {
			bad("network.default_network.subnets", "%w", err)
		}
	}
	if n := c.Network.DefaultNetwork.Bridge; len(n) == 0 || len(n) > 15 { // IFNAMSIZ - 1
		bad("network.default_network.bridge", "%q is no interface name", n)
	}
	for key, d := range map[string]Duration{
		"runtime.timeout": c.Runtime.Timeout, "network.timeout": c.Network.Timeout, "exec.drain_timeout": c.Exec.DrainTimeout,
		"image.progress_timeout": c.Image.ProgressTimeout, "streaming.idle_timeout": c.Streaming.IdleTimeout,
	} {
		if d <= 0 {
			bad(key, "has to be positive")
		}
	}
	for key, n := range map[string]int{
		"network.max_networks": c.Network.MaxNetworks, "network.max_parallel": c.Network.MaxParallel, "image.max_downloads": c.Image.MaxDownloads,
	} {
		if n <= 0 {
			bad(key, "has to be positive")
		}
	}
	if (c.Streaming.TLSCert == "") != (c.Streaming.TLSKey == "") {
		bad("streaming.tls_cert", "needs streaming.tls_key, and the other way round")
	}
	if c.Exit.Capacity < 0 {
		bad("exit.capacity", "is negative")
	}
	if c.Pod.ShmSize <= 0 {
		bad("pod.shm_size", "has to be positive")
	}
	return errors.Join(errs...)
}
