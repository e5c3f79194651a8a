// SPDX-License-Identifier: Apache-2.0

// Package testregistry serves container images over the real registry protocol without any network,
// for tests and for hack/testregistry.
//
// The images are made on the spot: from Debian's busybox-static (/bin/busybox) and from the small
// static Go programs below program/, compiled at first use. The registry is go-containerregistry's,
// in this process, on a loopback port; blobs live in memory.
//
//	reg := testregistry.Start(t, testregistry.Options{})
//	ref := reg.Ref(t, "busybox:1") // builds and pushes it the first time; "127.0.0.1:41217/busybox:1"
//
// [Names] lists what there is. Anything else (a hostile layer, a large image) is built with [Build] or
// [Random] and put there with [Registry.Push].
package testregistry
