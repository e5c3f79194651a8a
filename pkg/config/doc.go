// SPDX-License-Identifier: Apache-2.0

// Package config is the daemon's configuration: Default, then a TOML file, then flags, then Validate. Every path and name the
// daemon uses is in it, so that several daemons can run side by side on one machine.
//
// # Adding a setting
//
//  1. Add the field with a toml tag; its comment states unit and default. It appears in `embedcri config default` with it.
//  2. Give its default in Default, its rules in Validate.
//  3. If people will want to set it without a file, add a line to Flags.
//  4. Hand it to its package in cmd/embedcri/daemon.go.
package config
