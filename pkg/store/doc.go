// SPDX-License-Identifier: Apache-2.0

// Package store keeps records on disk. It knows nothing of what a record means: it owns the directory layout, the atomic
// replacement of files, the format version, and telling a damaged record from an absent one.
//
//	<root>/version                     the format of everything below; a newer one is refused, an older one is migrated
//	<root>/<kind>/<id>/<name>.json     one record; the kinds are "pods" and "containers"
//
// Rules of its users (style: record first, then make the resource; delete the resource first, then the record):
//   - Identity (written once, when an object is made) is durable before the object is said to exist, and before anything is made that
//     outlives a power loss; until then it is written with Process durability, and StartSync is under way.
//   - State (written at each transition) is written with Process durability: it has to outlive the daemon. After a power loss no
//     process lives, whatever the last state on disk was; an exit status is made durable by Sync, outside of the exit's path.
//   - A record that cannot be decoded is reported as ErrDamaged and left where it is: it is evidence.
//
// All methods may be called by many goroutines at once; writers of the same record have to take turns themselves.
package store
