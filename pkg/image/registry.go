// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/BurntSushi/toml"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// source is one server that a pull may read from: a mirror, or the registry itself.
type source struct {
	host     string // host:port, for messages
	resolver remotes.Resolver
	fetcher  remotes.Fetcher
	resolves bool // may say what a tag points to
	client   *http.Client
}

// sources reads the configuration of the registry that named is in, and returns the servers in the
// order in which to ask them. Each has a resolver of its own, so that a pull can move on to the next
// not only where a server answers with an error but also where it stalls or sends wrong bytes.
//
// The configuration is read anew at every pull: an edit of hosts.toml needs no restart.
func (s *Store) sources(ctx context.Context, named reference.Named, auth credentials) ([]*source, error) {
	registry := registryOf(named)
	dir, err := hostDir(s.options.CertDirs, registry)
	if err != nil {
		return nil, err
	}
	var allowed []string // filled below, read when a server asks for a login
	hosts, err := config.ConfigureHosts(ctx, config.HostOptions{
		HostDir:      func(string) (string, error) { return dir, nil },
		Credentials:  func(host string) (string, string, error) { return auth.login(allowed)(host) },
		UpdateClient: s.politeClient,
	})(registry)
	if err != nil {
		return nil, fmt.Errorf("configuration in %s: %w: %w", dir, err, errdefs.ErrFailedPrecondition)
	}
	var sources []*source
	for i := range hosts {
		host := hosts[i]
		allowed = append(allowed, host.Host)
		if !host.Capabilities.Has(docker.HostCapabilityPull) {
			continue
		}
		if auth.bearer != "" && (auth.server == "" || auth.server == canonicalHost(host.Host)) {
			host.Authorizer = tokenAuthorizer{host: host.Host, token: auth.bearer}
		}
		resolver := docker.NewResolver(docker.ResolverOptions{
			Hosts: func(string) ([]docker.RegistryHost, error) { return []docker.RegistryHost{host}, nil },
		})
		fetcher, err := resolver.Fetcher(ctx, named.String())
		if err != nil {
			return nil, fmt.Errorf("server %s: %w", host.Host, err)
		}
		sources = append(sources, &source{
			host: host.Host, resolver: resolver, fetcher: fetcher, client: host.Client,
			resolves: host.Capabilities.Has(docker.HostCapabilityResolve),
		})
	}
	if len(sources) == 0 {
		return nil, fmt.Errorf("%s configures no server to pull from: %w", filepath.Join(dir, "hosts.toml"), errdefs.ErrFailedPrecondition)
	}
	return sources, nil
}

// close drops the source's idle connections: its transport is not used again.
func (s *source) close() { s.client.CloseIdleConnections() }

// hostDir finds the configuration directory of a registry. A directory made for this registry wins
// over a _default one, in whichever place each of them is.
func hostDir(roots []string, registry string) (string, error) {
	var fallback string
	for _, root := range roots {
		dir, err := config.HostDirFromRoot(root)(registry)
		switch {
		case errdefs.IsNotFound(err):
			continue
		case err != nil:
			return "", err
		case filepath.Base(dir) != "_default":
			return dir, checkHosts(dir)
		case fallback == "":
			fallback = dir
		}
	}
	if fallback == "" {
		return "", nil
	}
	return fallback, checkHosts(fallback)
}

// checkHosts refuses a hosts.toml that cannot be read. containerd's reader only logs that and then
// goes to the registry directly, which may be just what the file was to prevent.
func checkHosts(dir string) error {
	file := filepath.Join(dir, "hosts.toml")
	var content map[string]any
	_, err := toml.DecodeFile(file, &content)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s: %w: %w", file, err, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// resolve asks the servers in turn what named points to. A name by digest says so itself, but its size
// and media type are still asked for, and the registry gets to see the credentials.
func resolve(ctx context.Context, named reference.Named, sources []*source) (ocispec.Descriptor, error) {
	var failed failures
	_, byDigest := named.(reference.Digested)
	for _, src := range sources {
		if !byDigest && !src.resolves {
			continue
		}
		_, desc, err := src.resolver.Resolve(ctx, named.String())
		if err == nil {
			return desc, nil
		}
		if ctx.Err() != nil {
			return ocispec.Descriptor{}, context.Cause(ctx)
		}
		failed.add(src.host, err)
	}
	return ocispec.Descriptor{}, failed.error()
}
