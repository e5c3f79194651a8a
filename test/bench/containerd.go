// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// newContainerd prepares a containerd with its defaults, but for where things are and for restrict_oom_score_adj, without which it
// needs CAP_SYS_RESOURCE, which root in a container has not got. The configuration is written for 2.4.
func newContainerd(b *bed) (*daemon, error) {
	program, err := filepath.Abs(filepath.Join(b.o.peerBin, "containerd"))
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(program); err != nil {
		return nil, fmt.Errorf("%w (make peers builds it)", err)
	}
	d := newDaemon(b, "containerd")
	nets, bridge, err := d.cniConf(2)
	if err != nil {
		return nil, err
	}
	certs, err := d.hosts()
	if err != nil {
		return nil, err
	}
	config := filepath.Join(d.dir, "config.toml")
	err = os.WriteFile(config, fmt.Appendf(nil, `version = 4
root = %[1]q
state = %[2]q
[plugins.'io.containerd.server.v1.grpc']
address = %[3]q
[plugins.'io.containerd.server.v1.ttrpc']
address = %[4]q
[plugins.'io.containerd.shim.v1.manager']
socket_dir = %[5]q
[plugins.'io.containerd.internal.v1.opt']
path = %[6]q
[plugins.'io.containerd.nri.v1.nri']
socket_path = %[7]q
plugin_path = %[6]q
plugin_config_path = %[6]q
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = %[8]q
[plugins.'io.containerd.cri.v1.images'.registry]
config_path = %[9]q
[plugins.'io.containerd.cri.v1.runtime']
netns_mounts_under_state_dir = true
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = [%[10]q]
conf_dir = %[11]q
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = %[12]q
SystemdCgroup = false
`, filepath.Join(d.dir, "root"), filepath.Join(d.state, "state"), d.socket, d.socket+".ttrpc", filepath.Join(d.state, "s"),
		filepath.Join(d.dir, "opt"), filepath.Join(d.state, "nri.sock"), b.pause, certs, filepath.Join(b.tools, "cni"), nets,
		filepath.Join(b.tools, "runc")), 0o600)
	if err != nil {
		return nil, err
	}
	d.command = []string{program, "-c", config}
	d.cleanup = func() error { return removeLink(bridge) }
	return d, nil
}
