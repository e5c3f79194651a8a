// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// credentials are what a pull may show to a registry, from the CRI's AuthConfig. The zero value shows
// nothing.
type credentials struct {
	// user and secret are a login; with an empty user the secret is an identity token (an OAuth2 refresh
	// token), as containerd's authorizer has it.
	user, secret string
	// bearer is a registry token: shown as it is, without asking a token server.
	bearer string
	// server limits the login to one registry, "host[:port]"; "" is any that the reference is pulled from.
	server string
}

// parseAuth reads the forms that an AuthConfig can have (k8s.io/cri-api's api.proto): registry token,
// user and password, identity token, or "auth", which is base64 of user:password as in Docker's
// config.json. Where several are set, the first of these counts.
func parseAuth(auth *runtimeapi.AuthConfig) (credentials, error) {
	if auth == nil {
		return credentials{}, nil
	}
	c := credentials{server: serverHost(auth.GetServerAddress())}
	switch {
	case auth.GetRegistryToken() != "":
		c.bearer = auth.GetRegistryToken()
	case auth.GetUsername() != "":
		c.user, c.secret = auth.GetUsername(), auth.GetPassword()
	case auth.GetIdentityToken() != "":
		c.secret = auth.GetIdentityToken()
	case auth.GetAuth() != "":
		// Never put into a message what was wrong with it: it is a password.
		plain, err := decodeBase64(auth.GetAuth())
		user, secret, ok := strings.Cut(strings.TrimRight(string(plain), "\x00"), ":")
		if err != nil || !ok {
			return credentials{}, fmt.Errorf("the auth field of the credentials is not base64 of USER:PASSWORD: %w", errdefs.ErrInvalidArgument)
		}
		c.user, c.secret = user, secret
	}
	return c, nil
}

func decodeBase64(s string) ([]byte, error) {
	if strings.HasSuffix(s, "=") || len(s)%4 == 0 {
		return base64.StdEncoding.DecodeString(s)
	}
	return base64.RawStdEncoding.DecodeString(s)
}

// serverHost takes the host out of a server address, which may be "quay.io", "https://quay.io/v2/" or
// Docker Hub's historical "https://index.docker.io/v1/".
func serverHost(address string) string {
	if address == "" {
		return ""
	}
	if !strings.Contains(address, "://") {
		address = "https://" + address
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return address // matches no host: the login is shown to nobody
	}
	return canonicalHost(u.Host)
}

// canonicalHost gives the hosts that are Docker Hub one name.
func canonicalHost(host string) string {
	if slices.Contains([]string{"index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"}, host) {
		return "docker.io"
	}
	return host
}

// login answers containerd's authorizer when host asks for a login. Only the hosts that the pull was
// configured to use get it: an authorizer is also asked on behalf of a server that one of them
// redirected to, and that one must not be able to fish for passwords.
func (c credentials) login(allowed []string) func(host string) (user, secret string, err error) {
	return func(host string) (string, string, error) {
		if !slices.Contains(allowed, host) || c.server != "" && canonicalHost(host) != c.server {
			return "", "", nil
		}
		return c.user, c.secret, nil
	}
}

// tokenAuthorizer shows a registry token to the registry's own host and to nobody else.
type tokenAuthorizer struct{ host, token string }

// Authorize implements docker.Authorizer. It is also called for redirects, with the new URL.
func (a tokenAuthorizer) Authorize(_ context.Context, req *http.Request) error {
	if req.URL.Host == a.host {
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	return nil
}

// AddResponses implements docker.Authorizer: it is called when the registry did not take the token.
func (a tokenAuthorizer) AddResponses(context.Context, []*http.Response) error {
	return fmt.Errorf("the registry refuses the registry token: %w", docker.ErrInvalidAuthorization)
}
