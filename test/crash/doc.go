// SPDX-License-Identifier: Apache-2.0

// Package crash holds the proof that the daemon may die at any moment, and any step of it fail, without anything being lost or
// left behind: the crash table, generated from the list of durable steps (internal/failpoint), and the storm.
package crash
