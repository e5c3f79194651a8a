// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/embedcri/embedcri/internal/testenv"
)

// newEmbedcri prepares this checkout's daemon with its defaults, but for where things are.
func newEmbedcri(b *bed) (*daemon, error) {
	program, err := filepath.Abs("bin/embedcri")
	if err != nil {
		return nil, err
	}
	d := newDaemon(b, "embedcri")
	nets, bridge, err := d.cniConf(1)
	if err != nil {
		return nil, err
	}
	certs, err := d.hosts()
	if err != nil {
		return nil, err
	}
	crun := ""
	if path, err := testenv.FindCrun(); err == nil {
		crun = fmt.Sprintf("[runtime.handlers.crun]\npath = %q\n", path)
	}
	bpf := fmt.Sprintf("/sys/fs/bpf/embedcri-bench-%d", os.Getpid())
	config := filepath.Join(d.dir, "config.toml")
	err = os.WriteFile(config, fmt.Appendf(nil, `socket = %q
root = %q
state = %q
bpf = %q
[runtime.handlers.runc]
path = %q
%s[cgroup]
driver = "cgroupfs"
[network]
conf_dir = %q
bin_dirs = [%q]
[network.default_network]
enabled = false
[image]
cert_dirs = [%q]
[metrics]
address = %q
`, d.socket, filepath.Join(d.dir, "root"), filepath.Join(d.state, "state"), bpf, filepath.Join(b.tools, "runc"), crun, nets,
		filepath.Join(b.tools, "cni"), certs, "unix:"+d.metrics()), 0o600)
	if err != nil {
		return nil, err
	}
	d.command = []string{program, "run", "-config", config}
	d.cleanup = func() error {
		out, err := exec.Command(program, "cleanup", "-config", config).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("embedcri cleanup: %w: %s", err, out)
		}
		return errors.Join(err, removeLink(bridge))
	}
	return d, nil
}
