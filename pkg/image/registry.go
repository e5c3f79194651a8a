// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

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
	// down is set when the server did not answer, or stopped to: the rest of the pull asks it last.
	down atomic.Bool
}

// mirrorPatience is how long a mirror has to say what a name points to. containerd's resolver tries five
// times for half a minute each where packets get lost; there is the registry itself to ask.
const mirrorPatience = 20 * time.Second

// sources reads the configuration of the registry that named is in, and returns the servers in the
// order in which to ask them. Each has a resolver of its own, so that a pull can move on to the next
// not only where a server answers with an error but also where it stalls or sends wrong bytes.
//
// The configuration is read anew at every pull: an edit of hosts.toml needs no restart.
//
// The caller calls done when it has read everything.
func (s *Store) sources(ctx context.Context, named reference.Named, auth credentials) (_ []*source, done func(), err error) {
	registry := registryOf(named)
	dir, err := hostDir(s.options.CertDirs, registry)
	if err != nil {
		return nil, nil, err
	}
	var allowed []string // filled below, read when a server asks for a login
	var transports []*politeTransport
	hosts, err := config.ConfigureHosts(ctx, config.HostOptions{
		HostDir:     func(string) (string, error) { return dir, nil },
		Credentials: func(host string) (string, string, error) { return auth.login(allowed)(host) },
		UpdateClient: func(client *http.Client) error {
			// Called twice for some clients.
			if _, ok := client.Transport.(*politeTransport); !ok {
				t := &politeTransport{next: client.Transport}
				client.Transport = t
				transports = append(transports, t)
			}
			return nil
		},
	})(registry)
	if err != nil {
		return nil, nil, fmt.Errorf("configuration in %s: %w: %w", dir, err, errdefs.ErrFailedPrecondition)
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
			Headers: http.Header{"User-Agent": {"embedcri"}},
			Hosts:   func(string) ([]docker.RegistryHost, error) { return []docker.RegistryHost{host}, nil },
		})
		fetcher, err := resolver.Fetcher(ctx, named.String())
		if err != nil {
			return nil, nil, fmt.Errorf("server %s: %w", host.Host, err)
		}
		sources = append(sources, &source{
			host: host.Host, resolver: resolver, fetcher: fetcher,
			resolves: host.Capabilities.Has(docker.HostCapabilityResolve),
		})
	}
	if len(sources) == 0 {
		return nil, nil, fmt.Errorf("%s configures no server to pull from: %w", filepath.Join(dir, "hosts.toml"), errdefs.ErrFailedPrecondition)
	}
	return sources, func() {
		for _, t := range transports {
			t.CloseIdleConnections() // nobody else has this pull's connections
		}
	}, nil
}

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
	for i, src := range sources {
		if !byDigest && !src.resolves {
			continue
		}
		asked, cancel := ctx, func() {}
		if i < len(sources)-1 {
			asked, cancel = context.WithTimeoutCause(ctx, mirrorPatience, errStalled)
		}
		_, desc, err := src.resolver.Resolve(asked, named.String())
		cancel()
		if err == nil {
			return desc, nil
		}
		if ctx.Err() != nil {
			return ocispec.Descriptor{}, context.Cause(ctx)
		}
		src.failed(err)
		failed.add(src.host, err)
	}
	return ocispec.Descriptor{}, failed.error()
}

// failed looks at an error of the source.
func (s *source) failed(err error) {
	if class := classOf(err); class == errdefs.ErrUnavailable || class == context.DeadlineExceeded {
		s.down.Store(true)
	}
}

// inOrder returns the sources that answer, and then those that do not, as they were configured.
func inOrder(sources []*source) []*source {
	var up, down []*source
	for _, src := range sources {
		if src.down.Load() {
			down = append(down, src)
		} else {
			up = append(up, src)
		}
	}
	return slices.Concat(up, down)
}
