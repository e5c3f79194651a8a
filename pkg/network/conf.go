// SPDX-License-Identifier: Apache-2.0

package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"
)

// errNotInitialized is what the kubelet and its users know this state by.
var errNotInitialized = fmt.Errorf("cni plugin not initialized: %w", errdefs.ErrUnavailable)

// netConf is one usable network configuration.
type netConf struct {
	file string // where it is from; empty: the built-in network
	list *libcni.NetworkConfigList
	// masquerade tells that its pods get out by the built-in network's own table, not by a plug-in.
	masquerade bool
}

// cannotMapPorts is about the built-in network alone. Any other may map ports without saying so:
// several do it in an agent of theirs, and declare no capability.
func (n netConf) cannotMapPorts() bool {
	return n.file == "" && !slices.ContainsFunc(n.list.Plugins, func(p *libcni.PluginConfig) bool {
		return p.Network.Capabilities["portMappings"]
	})
}

// confSet is what one look at ConfDir found. Immutable.
type confSet struct {
	dir      string
	files    int
	networks []netConf // the ones in use, in order
	broken   []error   // files that are not usable, each named
}

// err says why no pod can be attached, or nil.
func (c *confSet) err() error {
	if len(c.networks) > 0 {
		return nil
	}
	if len(c.broken) > 0 {
		return fmt.Errorf("%w: no usable configuration in %s: %w", errNotInitialized, c.dir, errors.Join(c.broken...))
	}
	return fmt.Errorf("%w: no network configuration in %s", errNotInitialized, c.dir)
}

// loadConf reads the first most usable configurations of dir, in the order of their file names,
// which is the rule that CNI's users rely on. A broken file does not keep the next from being used;
// it is reported.
func loadConf(dir string, most int) *confSet {
	c := &confSet{dir: dir}
	files, err := libcni.ConfFiles(dir, []string{".conflist", ".conf", ".json"})
	if err != nil {
		c.broken = append(c.broken, err)
		return c
	}
	c.files = len(files)
	slices.Sort(files)
	seen := map[string]string{}
	for _, file := range files {
		if len(c.networks) == most {
			break
		}
		list, err := loadFile(file)
		if err != nil {
			c.broken = append(c.broken, fmt.Errorf("%s: %w", file, err))
			continue
		}
		// The name is what DEL and GC tell networks apart by.
		if other, ok := seen[list.Name]; ok {
			c.broken = append(c.broken, fmt.Errorf("%s: network %q is already configured by %s", file, list.Name, other))
			continue
		}
		seen[list.Name] = file
		c.networks = append(c.networks, netConf{file: file, list: list})
	}
	return c
}

// loadFile reads a configuration list or, in the older formats, a single plug-in.
func loadFile(file string) (*libcni.NetworkConfigList, error) {
	var list *libcni.NetworkConfigList
	if filepath.Ext(file) == ".conflist" {
		l, err := libcni.NetworkConfFromFile(file)
		if err != nil {
			return nil, err
		}
		if list, err = inline(l); err != nil {
			return nil, err
		}
	} else {
		//nolint:staticcheck // no longer in the CNI specification, and all over the world's nodes
		single, err := libcni.ConfFromFile(file)
		if err != nil {
			return nil, err
		}
		//nolint:staticcheck // see above
		if list, err = libcni.ConfListFromConf(single); err != nil {
			return nil, err
		}
	}
	return list, validateList(list)
}

// inline makes a list complete. Its plug-ins may partly be in files of a subdirectory (CNI 1.1),
// and then the bytes of the list alone would not do for a DEL after those have changed.
func inline(l *libcni.NetworkConfigList) (*libcni.NetworkConfigList, error) {
	if l.LoadOnlyInlinedPlugins {
		return l, nil
	}
	all := map[string]json.RawMessage{}
	if err := json.Unmarshal(l.Bytes, &all); err != nil {
		return nil, err
	}
	var own []json.RawMessage
	if raw, ok := all["plugins"]; ok {
		if err := json.Unmarshal(raw, &own); err != nil {
			return nil, err
		}
	}
	if len(own) == len(l.Plugins) {
		return l, nil // nothing came from elsewhere: the bytes stay as they are
	}
	plugins := make([]json.RawMessage, 0, len(l.Plugins))
	for _, p := range l.Plugins {
		plugins = append(plugins, p.Bytes)
	}
	for key, v := range map[string]any{"plugins": plugins, "loadOnlyInlinedPlugins": true} {
		raw, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		all[key] = raw
	}
	raw, err := json.Marshal(all)
	if err != nil {
		return nil, err
	}
	return libcni.NetworkConfFromBytes(raw)
}

// validateList finds at once what libcni would only find at the first pod.
func validateList(l *libcni.NetworkConfigList) error {
	if err := utils.ValidateNetworkName(l.Name); err != nil {
		return err
	}
	if len(l.Plugins) == 0 {
		return errors.New("there are no plug-ins in it")
	}
	if l.CNIVersion == "" {
		return nil // 0.1.0, by the specification
	}
	newer, err := version.GreaterThan(l.CNIVersion, version.Current())
	if err != nil {
		return err
	}
	if newer {
		return fmt.Errorf("cniVersion %s is newer than %s, the newest that is supported", l.CNIVersion, version.Current())
	}
	return nil
}
