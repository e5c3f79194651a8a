// SPDX-License-Identifier: Apache-2.0

// Package stats turns cgroups, network namespaces and processes into numbers. It knows cgroup v1, v2 and the hybrid of both (v1
// has the controllers, and pressure is in the v2 tree beside them), and nothing about pods or the CRI's messages.
//
//	Get ──► table of what was asked for ──► entry: open files, netlink socket, last Sample
//	              ▲
//	              └── background loop: measures every entry each Interval; ends when nobody has asked for Linger
//
// # What it costs
//
// Opening a file of cgroupfs costs ten times as much as reading it, so an entry keeps its files open and reads them with pread(2):
// some 70 µs for all numbers of a container. Files, sockets and the loop exist only while somebody asks: a node that nobody looks
// at has none of them. Open files keep neither a cgroup nor a controller alive (kernfs drops them at rmdir; reads then fail with
// ENODEV). A netlink socket does keep its network namespace alive, hence Forget.
//
// containerd/cgroups/v3 reads the same files but opens them anew each time, and more of them than are needed; here it serves as
// the second opinion in a test.
//
// # How old a number may be
//
// Get measures what it has never seen, and as much of what is older than Fresh as fits into Budget; the rest is as old as the loop
// leaves it, at most Interval. Each Sample says when it was taken. What needs a walk (the writable layer, descriptors of
// processes) is only ever measured in the background, at most every 10 s, but for the first time, which Get waits for briefly.
//
// # Locks
//
// Collector.mu guards the table; entry.mu one entry's files, and is held while they are read. entry.mu is never taken with
// Collector.mu held.
package stats
