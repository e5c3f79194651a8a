// SPDX-License-Identifier: Apache-2.0

package task

import "github.com/embedcri/embedcri/pkg/task/internal/runc"

// RuntimeOptions say which OCI runtime to drive and how.
type RuntimeOptions = runc.Options

// NewRuntime returns a driver of an OCI runtime with runc's command line. It touches nothing.
func NewRuntime(o RuntimeOptions) Runtime { return runc.New(o) }
