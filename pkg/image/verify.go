// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/pkg/imageverifier/bindir"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// verify asks the programs in [Options.VerifierDir] whether the image may be pulled: after the registry
// has said what the name points to, before anything of it is downloaded.
func (s *Store) verify(ctx context.Context, named reference.Named, target ocispec.Descriptor) error {
	if s.options.VerifierDir == "" {
		return nil
	}
	config := &bindir.Config{BinDir: s.options.VerifierDir, MaxVerifiers: -1}
	// The field's type is internal to containerd; its method is not.
	if err := config.PerVerifierTimeout.UnmarshalText([]byte(s.options.VerifierTimeout.String())); err != nil {
		return fmt.Errorf("image policy: %w", err)
	}
	judgement, err := bindir.NewImageVerifier(config).VerifyImage(ctx, named.String(), target)
	if err != nil {
		return fmt.Errorf("image policy: %w", err)
	}
	if !judgement.OK {
		return &PullError{
			Reference: named.String(), Registry: registryOf(named), Denied: true,
			err: fmt.Errorf("image policy denies %s: %s: %w", target.Digest, judgement.Reason, errdefs.ErrPermissionDenied),
		}
	}
	return nil
}
