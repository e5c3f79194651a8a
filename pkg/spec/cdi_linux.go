// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
)

// CDI is the node's registry of CDI devices: the JSON and YAML files of some directories, read again when they change.
type CDI struct {
	cache *cdi.Cache
}

// OpenCDI reads the registry. Directories are those of the configuration, later ones win; none means the library's default,
// /etc/cdi and /var/run/cdi. They need not exist. Broken files do not fail it: they matter when a device of theirs is asked for.
func OpenCDI(dirs ...string) (*CDI, error) {
	opts := []cdi.Option{cdi.WithAutoRefresh(true)}
	if len(dirs) > 0 {
		opts = append(opts, cdi.WithSpecDirs(dirs...))
	}
	c, err := cdi.NewCache(opts...)
	if err != nil {
		return nil, fmt.Errorf("read CDI directories: %w", err)
	}
	return &CDI{cache: c}, nil
}

// Inject edits a specification as the vendors of the named devices (CDIDevices) want: nodes, mounts, environment, hooks. An
// unknown device is errdefs.ErrInvalidArgument and names what is wrong with the registry's files, as that is usually why. On an
// error the specification is not to be used. Safe for concurrent use.
func (c *CDI) Inject(s *specs.Spec, devices []string) error {
	if len(devices) == 0 {
		return nil
	}
	cache := c.cache
	unresolved, err := cache.InjectDevices(s, devices...)
	if len(unresolved) > 0 {
		// Device plug-ins write a description and name its device at once: the event may still be on its way to the cache.
		if cache, err = cdi.NewCache(cdi.WithAutoRefresh(false), cdi.WithSpecDirs(cache.GetSpecDirectories()...)); err != nil {
			return fmt.Errorf("read CDI directories: %w", err)
		}
		unresolved, err = cache.InjectDevices(s, devices...)
	}
	if err == nil {
		return nil
	}
	if len(unresolved) == 0 {
		return fmt.Errorf("apply CDI devices: %w", err)
	}
	err = invalid("CDI_devices", "%s: no such device on this node", strings.Join(unresolved, ", "))
	for file, errs := range cache.GetErrors() {
		err = fmt.Errorf("%w; %s: %v", err, file, errs)
	}
	return err
}

// Close stops watching the directories. The CDI must not be used afterwards.
func (c *CDI) Close() error {
	if err := c.cache.Configure(cdi.WithAutoRefresh(false)); err != nil {
		return fmt.Errorf("stop watching CDI directories: %w", err)
	}
	return nil
}
