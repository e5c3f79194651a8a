// SPDX-License-Identifier: Apache-2.0

// Package image is the node's image store: it pulls, lists, removes, imports and exports images, and
// makes containers' root file systems from them. It runs containerd v2's libraries inside this process
// (content store, bolt metadata, overlay snapshotter, docker resolver, unpacker, leases and garbage
// collection) and is the only package that names them.
//
// # On disk
//
//	Options.Root/
//	  metadata.db          bolt: images, leases, labels and references of everything below; its lock
//	                       keeps a second process out
//	  content/blobs/       manifests, configurations, compressed layers, by digest
//	  content/ingest/      blobs that are being downloaded
//	  overlayfs/           one directory per unpacked layer and per container, and their bolt database
//	                       (or native/, where overlayfs is impossible)
//
// # What keeps what
//
// Nothing is deleted by hand. Garbage collection deletes what no root leads to; roots are
//
//   - image records: up to three per pull (tag, digest, image id), all written in one transaction when
//     the last layer is unpacked, so that an image is either whole or not there. A record leads to index
//     or manifest, from there by labels to the configuration, to the layers' blobs and to the snapshot of
//     the topmost layer;
//   - the snapshots of containers and of image volumes, which are roots themselves. So an image can be
//     removed while containers of it run;
//   - leases of running pulls, and, for an hour, of failed or killed ones, so that the kubelet's next try
//     goes on where the last one stopped.
//
// # A pull
//
//	Pull ── flights: one per (reference, credentials, handler), however many wait for it
//	  pullOnce ── lease
//	    sources   hosts.toml of the registry, read anew: mirrors first, then the registry
//	    resolve   tag → digest, from the first source that says
//	    verify    the node's image policy
//	    ingest    index → manifest → configuration → layers, each blob by fetch,
//	              each layer, as soon as it is there, by applier
//	    publish   the records, then the index in memory
//
// A blob is fetched from the sources in turn until one delivers it: one that is down, refuses, stalls,
// cuts off or sends other bytes costs time, not the pull. Bytes already here are not asked for again.
// The same blob in two pulls is downloaded once, the same layer unpacked once, and Options.MaxDownloads
// bounds all pulls together. Layers of one image are unpacked at the same time and put on top of each
// other in their order, see inherit.go; with the native snapshotter one after the other.
//
// # What is not trusted
//
// The registry, after it has said what digest a tag has: every byte is checked against a digest that
// leads back to that one. The image: sizes of documents are bounded before they are read, the number of
// layers, and what the layers may unpack to (bytes, sparse or not, and files); URLs in manifests are not
// followed; attributes that overlayfs would obey are dropped. Redirects: credentials go only to servers
// that the node's configuration names.
//
// # After a crash
//
// Open takes whatever it finds, see recover.go: a process killed anywhere leaves a store that works, and
// a machine that lost power one without images whose files may be empty, see sync.go.
//
// # Locks
//
// Readers (Image, Images, Usage) take none that anything slow is done under. index.mu serialises
// rebuilding the list in memory and is held while records are read from the database; flights.mu,
// keyLock.mu, activePulls.mu and usageCache.mu guard maps and are leaves. The metadata database keeps
// writers out while it collects garbage; deleting files happens after that.
package image
