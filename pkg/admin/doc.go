// SPDX-License-Identifier: Apache-2.0

// Package admin is the daemon's second door: HTTP with JSON on a unix socket for root alone, for what the CRI has no call for.
// The embedcri subcommands are its only intended client (Client); the wire format may change from version to version.
//
//	POST   /task/{id}/pause, /task/{id}/resume
//	GET    /image                      all images
//	POST   /image/pull?ref=            progress, a JSON object a line; the last has "image" or "error"
//	DELETE /image?ref=
//	POST   /image/import               an OCI or docker archive as the body
//	GET    /image/export?ref=&ref=     an archive as the body
//
// An error is {"error": "…"} with a status by its class.
package admin
